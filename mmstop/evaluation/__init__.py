"""Evaluation metrics."""

from .retrieval import VideoTextRetrieval

__all__ = ['VideoTextRetrieval']
