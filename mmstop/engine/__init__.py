"""Hooks of the training and testing loops."""

from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker
from .saving import SafeCheckpointHook, SaveError

__all__ = [
    'ModelInfoHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SaveError',
    'TrainableCheckpointHook',
    'seed_worker',
]
