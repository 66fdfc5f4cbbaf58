"""Heads, the retriever, and MMAction2's recognizer for configs written in Python."""

from mmaction.models import Recognizer3D

from .head import CLIPTextHead
from .retriever import CaptionPreprocessor, CLIPRetriever, contrastive_loss

__all__ = [
    'CLIPRetriever',
    'CLIPTextHead',
    'CaptionPreprocessor',
    'Recognizer3D',
    'contrastive_loss',
]
