"""Hooks of the training and testing loops."""

from .bad_videos import BadVideoHook
from .finite import FiniteHook
from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker

__all__ = [
    'BadVideoHook',
    'FiniteHook',
    'ModelInfoHook',
    'ReseedHook',
    'TrainableCheckpointHook',
    'seed_worker',
]
