"""Low-rank updates of a tower's frozen weights.

"LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
https://arxiv.org/abs/2106.09685.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError

__all__ = ['LowRank', 'check_lora']

LAYERS = ('qkv', 'out', 'up', 'down')  # the four matrices of a block


class LowRank(nn.Module):
    """Add the product of two thin matrices to a weight matrix, at scale 1.

    The second matrix starts at zero, so the sum starts as the frozen weight.

    Args:
        shape: rows and columns of the weight.
        rank: the inner size of the product.
    """

    def __init__(self, shape: Sequence[int], rank: int) -> None:
        super().__init__()
        rows, columns = shape
        down = torch.empty(rank, columns)
        self.down = nn.Parameter(nn.init.kaiming_uniform_(down, a=math.sqrt(5)))
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor, rows: slice = slice(None)) -> Tensor:
        """Add to some rows of the weight, which are given: (n, columns)."""
        return torch.addmm(weight, self.up[rows], self.down)


def check_lora(rank: int, layers: Sequence[str] = ('qkv',)) -> Sequence[str]:
    """Check a tower's argument ``lora`` and return its layers.

    Raises:
        ConfigError: the rank is less than 1, or a layer is unknown.
    """
    if not (isinstance(rank, int) and rank >= 1):
        raise ConfigError(f'lora.rank={rank!r}, expected a whole number of at least 1')
    if isinstance(layers, str) or not layers or not {*layers} <= {*LAYERS}:
        raise ConfigError(
            f'lora.layers={layers!r}, expected some of {", ".join(map(repr, LAYERS))}'
        )
    return layers
