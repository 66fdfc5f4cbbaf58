"""CLIP's frozen towers and the interface that methods build upon."""

from .base import Tower, TunedTower, at_least_float32
from .clip import CLIPText, CLIPTower, CLIPViT
from .merging import PatchMerger

__all__ = [
    'CLIPText',
    'CLIPTower',
    'CLIPViT',
    'PatchMerger',
    'Tower',
    'TunedTower',
    'at_least_float32',
]
