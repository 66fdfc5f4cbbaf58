"""The tiny architecture of nearly every test: 3 blocks, width 64, 32 px, patch 8."""

from pathlib import Path

import torch
from torch import Tensor

TINY = str(Path(__file__).parent / 'data' / 'ViT-tiny.json')
VIT = dict(type='CLIPViT', arch=TINY, weights=None)
TEXT = dict(type='CLIPText', arch=TINY, weights=None)


def wild(B: int, T: int, seed: int = 0) -> Tensor:
    """Make videos in which everything changes: (B, 3, T, 32, 32)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, 3, T, 32, 32, generator=generator)


def still(B: int, T: int, seed: int = 0) -> Tensor:
    """Make videos in which nothing changes: (B, 3, T, 32, 32)."""
    return wild(B, 1, seed).expand(-1, -1, T, -1, -1)
