"""CLIP's frozen towers and the interface that methods build upon."""

from .base import Tower, at_least_float32, shared_prompts
from .clip import CLIPTower
from .merging import PatchMerger
from .text import CLIPText
from .tuned import TunedTower
from .vit import CLIPViT

__all__ = [
    'CLIPText',
    'CLIPTower',
    'CLIPViT',
    'PatchMerger',
    'Tower',
    'TunedTower',
    'at_least_float32',
    'shared_prompts',
]
