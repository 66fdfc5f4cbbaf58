"""CLIP's frozen towers and the interface that methods build on."""

from .base import Tower, TunedTower
from .clip import CLIPText, CLIPTower, CLIPViT

__all__ = ['CLIPText', 'CLIPTower', 'CLIPViT', 'Tower', 'TunedTower']
