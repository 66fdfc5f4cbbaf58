"""Hooks of the training and testing loops."""

from .bad_videos import BadVideoHook
from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker

__all__ = [
    'BadVideoHook',
    'ModelInfoHook',
    'ReseedHook',
    'TrainableCheckpointHook',
    'seed_worker',
]
