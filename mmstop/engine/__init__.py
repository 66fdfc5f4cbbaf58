"""Hooks of the training and testing loops."""

from .captions import CaptionCacheHook
from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker

__all__ = [
    'CaptionCacheHook',
    'ModelInfoHook',
    'ReseedHook',
    'TrainableCheckpointHook',
    'seed_worker',
]
