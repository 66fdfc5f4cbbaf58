"""Hooks of the training and testing loops."""

from .finite import FiniteHook
from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker

__all__ = [
    'FiniteHook',
    'ModelInfoHook',
    'ReseedHook',
    'TrainableCheckpointHook',
    'seed_worker',
]
