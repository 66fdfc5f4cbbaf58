"""Hooks of the training and testing loops."""

from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker

__all__ = ['ModelInfoHook', 'ReseedHook', 'TrainableCheckpointHook', 'seed_worker']
