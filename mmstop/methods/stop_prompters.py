"""The two prompters of STOP: which patches and gaps are prompted, and how.

Equation numbers and panels are those of the paper, see :mod:`mmstop.methods.stop`. Both
prompters come in two kinds of similar size. ``'linear'`` has two linear layers.
``'figure'`` has the layers of Figure 2, panels (b) and (c), between a projection to few
channels and the last linear layer. The figure gives no widths.
"""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from mmstop.towers import at_least_float32
from mmstop.towers.merging import take

from .stop_convolutions import (
    BOTTLENECK,
    TEMPORAL_HIDDEN,
    GapConv3d,
    NeighbourConv3d,
    PatchConv3d,
)

__all__ = ['SpatialPrompter', 'TemporalPrompter']

SPATIAL_HIDDEN = {'linear': 128, 'figure': 384}  # hidden width of P^s
DROPOUT = 0.1  # in the last layers of Figure 2, which shows a dropout but no rate
INIT_STD = 0.02  # CLIP's; for the layers that make the prompts
STILL = 1e-6  # less variation than this fraction of the tokens' mean square is none
ALIKE = 1e-4  # gaps whose variations differ by less than this fraction are alike
# After the first block, equal frames differ by rounding errors. The W^t that remains is
# set to 0; Eq. 11 would round it up to a prompt that depends on the batch.
ROUNDING = 1e-6


class SpatialPrompter(nn.Module):
    """Select the most salient patches of each frame and prompt them (Eq. 1 to 7).

    Args:
        width: D of the tokens.
        grid: rows and columns of the patches.
        num_spatial: N_s, prompts per frame, in [1, N].
        alpha: weight of attention against dynamics, in [0, 1].
        normalize_dynamics: divide M_i by its sum over the patches.
        gated: let the gradient through the selection.
        kind: architecture of P^s, 'linear' or 'figure'.
        strength: upper bound on the norms of the prompts, as a fraction of the mean
            norm of the video's patches; None means no bound.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        num_spatial: int,
        alpha: float,
        normalize_dynamics: bool,
        gated: bool,
        kind: str,
        strength: Optional[float],
    ) -> None:
        super().__init__()
        self.num_spatial = num_spatial
        self.alpha = alpha
        self.normalize_dynamics = normalize_dynamics
        self.gated = gated
        self.strength = strength
        self.scorer = PatchConv3d(width, grid).requires_grad_(gated)
        hidden = SPATIAL_HIDDEN[kind]
        self.context: Optional[NeighbourConv3d] = None
        if kind == 'figure':
            self.context = NeighbourConv3d(width, grid)
            self.prompter = nn.Sequential(
                nn.Linear(BOTTLENECK, hidden),
                nn.ReLU(),
                nn.Linear(hidden, width),
                nn.Dropout(DROPOUT),
            )
        else:
            self.prompter = nn.Sequential(
                nn.Linear(3 * width, hidden), nn.GELU(), nn.Linear(hidden, width)
            )
        _init_last(self.prompter[2])

    def score(self, patches: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Compute M and W^s, both (B, T, N), from (B, T, N, D) and A (B, T, N)."""
        dynamics = self.scorer(patches)  # Eq. 4
        if self.normalize_dynamics:
            dynamics = dynamics / dynamics.sum(-1, keepdim=True)
        saliency = self.alpha * attention + (1 - self.alpha) * dynamics  # Eq. 5
        return dynamics, saliency

    def forward(self, patches: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt the patches (B, T, N, D) where W^s is largest.

        Returns:
            the prompted patches (B, T, N, D) and the region r (B, T, N), bool.
        """
        # A stable sort, unlike topk, breaks ties in favour of the lower patch index.
        order = saliency.argsort(dim=-1, descending=True, stable=True)
        chosen = order[..., : self.num_spatial]  # (B, T, P)
        prompts = self._prompts(patches, chosen)  # Eq. 1
        if self.strength is not None:
            size = at_least_float32(patches.detach()).norm(dim=-1).mean((1, 2))
            prompts = _bound(prompts, self.strength * size)
        if self.gated:
            prompts = prompts * _pass_through(saliency.gather(-1, chosen))
        index = chosen.unsqueeze(-1).expand_as(prompts)
        prompted = patches.scatter_add(2, index, prompts.to(patches.dtype))  # Eq. 7
        region = torch.zeros_like(saliency, dtype=torch.bool)
        return prompted, region.scatter(-1, chosen, 1)  # jit.trace fails on a bool here

    def _prompts(self, patches: Tensor, chosen: Tensor) -> Tensor:
        """Make p^s from h_{i-1}, h_i, h_{i+1} at the selected patches: (B, T, P, D)."""
        if self.context is not None:
            return self.prompter(take(self.context(patches), chosen))
        T, N = patches.shape[1:3]
        shifts = torch.arange(-1, 2, device=chosen.device)
        frames = torch.arange(T, device=chosen.device)[:, None, None] + shifts
        index = frames.clamp(0, T - 1) * N + chosen.unsqueeze(-1)  # (B, T, P, 3)
        seen = take(patches.flatten(1, 2), index.flatten(1))
        return self.prompter(seen.view(*chosen.shape, -1))


class TemporalPrompter(nn.Module):
    """Measure how much each gap changes and make its prompts (Eq. 8 to 12).

    Args:
        width: D of the tokens.
        grid: rows and columns of the patches.
        temporal_scale: eta, the maximum number of prompts per gap, at least 1.
        beta: extra weight of the prompted patches, at least 0.
        gated: let the gradient through the selection.
        kind: architecture of P^t, 'linear' or 'figure'.
        normalize: bring W^t to [0, 1] within each 'video', or over the 'batch'.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        temporal_scale: int,
        beta: float,
        gated: bool,
        kind: str,
        normalize: str = 'video',
    ) -> None:
        super().__init__()
        self.temporal_scale = temporal_scale
        self.beta = beta
        self.gated = gated
        self.axes = (1,) if normalize == 'video' else (0, 1)
        self.scorer = PatchConv3d(width, grid).requires_grad_(gated)
        self.trunk: nn.Module
        if kind == 'figure':
            self.trunk = GapConv3d(width, grid)
        else:
            self.trunk = nn.Sequential(
                nn.Linear(width, BOTTLENECK),
                nn.GELU(),
                nn.Flatten(-2),
                nn.Linear(BOTTLENECK * grid[0] * grid[1], TEMPORAL_HIDDEN),
                nn.GELU(),
            )
        # The bank of eta final layers in Eq. 12, as one layer. The n-th gives n tokens,
        # which follow the tokens of the layers before it.
        num_tokens = temporal_scale * (temporal_scale + 1) // 2
        self.bank = nn.Linear(TEMPORAL_HIDDEN, num_tokens * width)
        self.dropout = nn.Dropout(DROPOUT if kind == 'figure' else 0)
        _init_last(self.bank)

    def forward(self, patches: Tensor, region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make the prompts for the gaps between the frames.

        Args:
            patches: (B, T, N, D), after the spatial prompter.
            region: r, the prompted patches, (B, T, N), bool.
        Returns:
            prompts (B, T - 1, eta, D), of which only the first N_i^t of gap i are used;
            W^t (B, T - 1); N^t (B, T - 1), int64.
        """
        num_gaps = patches.shape[1] - 1
        if num_gaps == 0:  # repeat an image; the extra gap is dropped again below
            patches, region = patches.repeat(1, 2, 1, 1), region.repeat(1, 2, 1)
        change = patches.diff(dim=1)  # Eq. 8
        variation = self._variation(change, patches, region[:, 1:])
        # A NaN shows up in the loss; as a count it would be an out-of-range index.
        share = variation.detach().nan_to_num(nan=1.0)
        count = (self.temporal_scale * share).ceil().long()  # Eq. 11
        prompts = self._prompts(change, count)
        if self.gated:
            prompts = prompts * _pass_through(variation)[..., None]
        return prompts[:, :num_gaps], variation[:, :num_gaps], count[:, :num_gaps]

    def _variation(self, change: Tensor, patches: Tensor, region: Tensor) -> Tensor:
        """Compute W^t (B, T - 1), in [0, 1] within each video or batch (Eq. 9, 10)."""
        energy = (self.scorer(change) * (1 + self.beta * region)).mean(-1)
        low, high = energy.amin(self.axes, True), energy.amax(self.axes, True)
        size = at_least_float32(patches.detach()).square().mean((1, 2, 3))
        still = energy.amax(1, keepdim=True) < STILL * size[:, None]
        alike = high - low <= ALIKE * high
        # The quotient of still or alike videos is replaced below: keep it finite.
        span = torch.where(still | alike, torch.ones_like(high), high - low)
        variation = (energy - low) / span
        variation = variation.masked_fill(variation < ROUNDING, 0.0)
        return variation.masked_fill(alike, 1.0).masked_fill(still, 0.0)

    def _prompts(self, change: Tensor, count: Tensor) -> Tensor:
        """Use layer N^t of the bank for each gap: (B, T - 1, eta, D) (Eq. 12)."""
        tokens = self.bank(self.trunk(change)).unflatten(-1, (-1, change.shape[-1]))
        slots = torch.arange(self.temporal_scale, device=count.device)
        index = (count * (count - 1) // 2).unsqueeze(-1) + slots  # (B, T - 1, eta)
        # Slots beyond a gap's count are never used; keep their index in range.
        return self.dropout(take(tokens, index.clamp(max=tokens.shape[2] - 1)))


# --- Shared by both -----------------------------------------------------------------


def _bound(prompts: Tensor, limit: Tensor) -> Tensor:
    """Bound the norms of (B, T, P, D) by limits (B,); short ones hardly change."""
    length = at_least_float32(prompts).norm(dim=-1, keepdim=True)
    # The limit of tanh(x) / x at 0 is 1, but dividing by 0 gives NaN.
    share = (length / limit[:, None, None, None]).clamp(min=1e-6)
    return prompts * (share.tanh() / share)


def _pass_through(score: Tensor) -> Tensor:
    """Return 1 exactly, with the gradient of the score: (...) -> (..., 1)."""
    return (1 + (score - score.detach())).unsqueeze(-1)


def _init_last(layer: Any) -> None:
    """Initialise prompts small but not at zero, or the gates would get no gradient."""
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)
