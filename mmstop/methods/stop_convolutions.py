"""STOP's 3D convolutions over patch tokens, all with few channels.

Time is padded by repeating the first and the last frame, so that all frames of a still
video give the same result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.towers import at_least_float32

__all__ = [
    'BOTTLENECK',
    'TEMPORAL_HIDDEN',
    'GapConv3d',
    'NeighbourConv3d',
    'PatchConv3d',
]

BOTTLENECK = 32  # channels of the convolutions and patch summaries
TEMPORAL_HIDDEN = 96  # hidden width of P^t, the input width of its bank


class PatchConv3d(nn.Module):
    """Convolve patch tokens over time and the patch grid, N^s and N^t (Eq. 3, 9).

    The 3x3x3 kernel works on few channels, between a down- and an up-projection, at a
    fraction of the cost of a full or grouped convolution. There are no biases, so that
    zero input gives zero output. Eq. 4 and 9 read only the mean square of the output,
    |U z|^2 / D, which is z' (U' U) z / D: the wide output is never made.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.down = nn.Linear(width, BOTTLENECK, bias=False)
        self.conv = nn.Conv3d(BOTTLENECK, BOTTLENECK, 3, padding=(0, 1, 1), bias=False)
        self.up = nn.Linear(BOTTLENECK, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, D) -> mean square of the output, (B, T, N), at least float32."""
        x = self.conv(_repeat_ends(_to_grid(self.down(x), self.grid)))
        x, up = at_least_float32(x), at_least_float32(self.up.weight)
        with torch.autocast(x.device.type, enabled=False):
            x = x.movedim(1, -1).flatten(2, 3)  # z, (B, T, N, BOTTLENECK)
            return (x @ (up.T @ up) * x).sum(-1) / len(up)


class NeighbourConv3d(nn.Module):
    """Figure 2 (b) up to its linear layers: Conv3d, ReLU, Conv3d.

    The first convolution spans three frames and the second a single frame, so that a
    patch's prompt depends on h_{i-1}, h_i and h_{i+1} and on no other frame (Eq. 1).
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.down = nn.Linear(width, BOTTLENECK)
        self.frames = nn.Conv3d(BOTTLENECK, BOTTLENECK, 3, padding=(0, 1, 1))
        self.patches = nn.Conv3d(BOTTLENECK, BOTTLENECK, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, T, N, BOTTLENECK)."""
        x = self.frames(_repeat_ends(_to_grid(self.down(x), self.grid)))
        return self.patches(x.relu()).movedim(1, -1).flatten(2, 3)


class GapConv3d(nn.Module):
    """Figure 2 (c) up to its linear layer: Attention, Conv3d, ReLU, Conv3d.

    All patches of all gaps attend to each other. The second convolution spans the patch
    grid and leaves one vector per gap.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.down = nn.Linear(width, BOTTLENECK)
        self.qkv = nn.Linear(BOTTLENECK, 3 * BOTTLENECK)
        self.gaps = nn.Conv3d(BOTTLENECK, BOTTLENECK, 3, padding=(0, 1, 1))
        self.patches = nn.Conv3d(BOTTLENECK, TEMPORAL_HIDDEN, (1, *grid))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T - 1, N, D) -> (B, T - 1, TEMPORAL_HIDDEN)."""
        x = self.down(x)
        tokens = self.qkv(x).flatten(1, 2).unsqueeze(1).chunk(3, dim=-1)  # one head
        seen = F.scaled_dot_product_attention(*tokens).squeeze(1)
        x = x + seen.unflatten(1, x.shape[1:3])
        x = self.gaps(_repeat_ends(_to_grid(x, self.grid)))
        return self.patches(x.relu()).flatten(2).transpose(1, 2)


def _to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, T, N, C) -> (B, C, T, rows, columns)."""
    return x.unflatten(2, grid).movedim(-1, 1)


def _repeat_ends(x: Tensor) -> Tensor:
    """Repeat the first and the last frame: (B, C, T, ...) -> (B, C, T + 2, ...)."""
    # F.pad's replication has no deterministic backward pass on GPUs.
    return torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
