"""What the methods share that run the blocks themselves, with prompts in each."""

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from mmstop.errors import ConfigError
from mmstop.towers import TunedTower

__all__ = [
    'PromptTower',
    'at_least_one',
    'behind_cls',
    'interpolated',
    'learned',
    'pre_norm_block',
    'slots',
]

INIT_STD = 0.02
HEAD_WIDTH = 64  # CLIP's


class PromptTower(TunedTower):
    """Base class of methods that lay out the tokens of every block themselves.

    Args:
        clip: config of the video tower.

    Raises:
        ConfigError: the tower merges patches, which the layouts do not provide for.
    """

    def __init__(self, clip: dict) -> None:
        super().__init__(clip)
        if self.merge:
            raise ConfigError(
                f'clip.merge={self.merge}, but {type(self).__name__} cannot merge '
                f'patches; set merge=0'
            )

    def run_block(self, i: int, x: Tensor, context: Tensor) -> Tensor:
        """Run block ``i`` for tokens (..., L, D) that attend to (..., M, D)."""
        x = x + self._branch(self.attend, i, x, context)
        return x + self._branch(self.feed, i, x)


def at_least_one(**numbers: int) -> None:
    """Refuse numbers of prompts, frames or layers that are less than 1.

    Raises:
        ConfigError: names the argument.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f'{name}={number}, expected at least 1')


def behind_cls(x: Tensor, prompts: Tensor) -> Tensor:
    """Insert the prompts of every frame behind its CLS.

    (B, T, L, D) and prompts that broadcast to (B, T, P, D) -> (B, T, L + P, D).
    """
    prompts = prompts.expand(*x.shape[:2], -1, -1).to(x.dtype)
    n = TunedTower.num_prefix
    return torch.cat([x[:, :, :n], prompts, x[:, :, n:]], dim=2)


def slots(n: int, size: int) -> list[int]:
    """Choose a row for each of n places, evenly from a table of ``size`` rows.

    With as many places as rows, every place has its own.
    """
    n = int(n)  # a tensor while PyTorch traces
    return [(2 * place + 1) * size // (2 * n) for place in range(n)]


def interpolated(table: Tensor, n: int) -> Tensor:
    """Return a row for each of n places: (rows, D) -> (n, D), linear between rows."""
    if n == len(table):
        return table
    # As weights: the backward pass of an interpolation has no fixed order on GPUs.
    rows = torch.eye(len(table), dtype=table.dtype, device=table.device)
    weights = F.interpolate(rows.unsqueeze(0), n, mode='linear')[0].t()  # (n, rows)
    return (weights.unsqueeze(-1) * table).sum(1)


def learned(*shape: int) -> nn.Parameter:
    """Make a parameter that starts normal, with standard deviation 0.02."""
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=INIT_STD))


def pre_norm_block(width: int) -> nn.Module:
    """Make a pre-LN transformer block, (B, L, D) -> (B, L, D), with an MLP of 4 D."""
    heads = 1 if width % HEAD_WIDTH else width // HEAD_WIDTH
    return ResidualAttentionBlock(width, heads)
