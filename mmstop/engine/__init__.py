"""Hooks of the training and testing loops."""

from .bad_videos import BadVideoHook
from .captions import CaptionCacheHook
from .finite import FiniteHook
from .hooks import ModelInfoHook, ReseedHook, TrainableCheckpointHook, seed_worker
from .saving import SafeCheckpointHook, SaveError

__all__ = [
    'BadVideoHook',
    'CaptionCacheHook',
    'FiniteHook',
    'ModelInfoHook',
    'ReseedHook',
    'SafeCheckpointHook',
    'SaveError',
    'TrainableCheckpointHook',
    'seed_worker',
]
