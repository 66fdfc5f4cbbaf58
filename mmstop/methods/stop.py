"""STOP: prompts on the patches that matter and between the frames that change.

"STOP: Integrated Spatial-Temporal Dynamic Prompting for Video Understanding", CVPR
2025, https://arxiv.org/abs/2503.15973. Equation numbers are the paper's. Departures:

- Eq. 4: the dynamics of a frame are divided by their sum, so that both terms of Eq. 5
  are distributions over patches; ``normalize_dynamics=False`` is the literal reading.
- Eq. 6, 11 are step functions through which nothing would be learnt: the forward values
  are kept, and a straight-through gate lets the gradient reach the scores.
  ``selection='hard'`` turns it off and leaves the two scorers as they were
  initialised, as in the authors' released code.
- Eq. 10 has no scale of its own and is brought to [0, 1] within each video; the
  authors' code does so over the batch, so that a video's result depends on its
  neighbours.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower, at_least_float32

__all__ = ['STOPCLIPViT', 'STOPTrace']

BOTTLENECK = 32  # channels between which the 3D convolutions and patch summaries work
SPATIAL_HIDDEN = 128  # hidden width of P^s
TEMPORAL_HIDDEN = 96  # hidden width of P^t, which its bank multiplies
INIT_STD = 0.02  # CLIP's; of the layers that make the prompts
STILL = 1e-6  # variation below this share of the tokens' mean square is none
ALIKE = 1e-4  # gaps whose variations differ relatively less than this are alike


@dataclass
class STOPTrace:
    """What STOP chose for a batch of videos, for plots, tests and papers.

    Attributes:
        attention: A of Eq. 2, (B, T, N), each frame sums to 1.
        dynamics: M of Eq. 4, (B, T, N), each frame sums to 1 if normalised.
        saliency: W^s of Eq. 5, (B, T, N).
        region: r of Eq. 6, (B, T, N), bool, ``num_spatial`` per frame.
        variation: W^t of Eq. 10, (B, T - 1), in [0, 1].
        num_prompts: N^t of Eq. 11, (B, T - 1), int64, in [0, temporal_scale].

    A part that is turned off leaves zeros: without spatial prompts ``dynamics``,
    ``saliency`` and ``region``, without temporal ones ``variation`` and
    ``num_prompts``.
    """

    attention: Tensor
    dynamics: Tensor
    saliency: Tensor
    region: Tensor
    variation: Tensor
    num_prompts: Tensor


@dataclass
class _Prompted:
    """Tokens with the spatial prompts added, and the temporal prompts beside them."""

    cls: Tensor  # (B, T, 1, D)
    protected: Tensor  # (B, T, P, D), patches that must not merge
    patches: Tensor  # (B, T, N - P, D), the others, in all N
    prompts: Tensor  # (B, T - 1, eta, D), of which a gap's first N^t count
    trace: STOPTrace


class PatchConv3d(nn.Module):
    """Convolve patch tokens over time and the patch grid, N^s and N^t (Eq. 3, 9).

    The 3x3x3 kernel works between two projections to few channels, which costs a
    fraction of a full or grouped one. Time is padded by repeating the first and the
    last frame, so that a still video looks the same in all its frames. No biases: no
    input means no output.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.down = nn.Linear(width, BOTTLENECK, bias=False)
        self.conv = nn.Conv3d(BOTTLENECK, BOTTLENECK, 3, padding=(0, 1, 1), bias=False)
        self.up = nn.Linear(BOTTLENECK, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, T, N, D)."""
        x = self.down(x).unflatten(2, self.grid).movedim(-1, 1)  # (B, C, T, rows, cols)
        # F.pad's replication has no deterministic backward pass on GPUs.
        x = self.conv(torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2))
        return self.up(x.movedim(1, -1).flatten(2, 3))


class SpatialPrompter(nn.Module):
    """Choose the patches of each frame that matter and prompt them (Eq. 1 to 7).

    Args:
        width: D of the tokens.
        grid: rows and columns of the patches.
        num_spatial: N_s, prompts a frame, in [1, N].
        alpha: weight of attention against dynamics, in [0, 1].
        normalize_dynamics: divide M_i by its sum over the patches.
        gated: let the gradient through the choice.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        num_spatial: int,
        alpha: float,
        normalize_dynamics: bool,
        gated: bool,
    ) -> None:
        super().__init__()
        self.num_spatial = num_spatial
        self.alpha = alpha
        self.normalize_dynamics = normalize_dynamics
        self.gated = gated
        self.scorer = PatchConv3d(width, grid).requires_grad_(gated)
        self.prompter = nn.Sequential(
            nn.Linear(3 * width, SPATIAL_HIDDEN),
            nn.GELU(),
            nn.Linear(SPATIAL_HIDDEN, width),
        )
        _init_last(self.prompter[-1])

    def score(self, patches: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Compute M and W^s, both (B, T, N), from (B, T, N, D) and A (B, T, N)."""
        dynamics = at_least_float32(self.scorer(patches)).square().mean(-1)  # Eq. 4
        if self.normalize_dynamics:
            dynamics = dynamics / dynamics.sum(-1, keepdim=True)
        saliency = self.alpha * attention + (1 - self.alpha) * dynamics  # Eq. 5
        return dynamics, saliency

    def forward(self, patches: Tensor, saliency: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt (B, T, N, D) where W^s is largest.

        Returns:
            the prompted patches (B, T, N, D) and the region r (B, T, N), bool.
        """
        # A stable sort, unlike topk, gives ties to the lower patch index.
        order = saliency.argsort(dim=-1, descending=True, stable=True)
        chosen = order[..., : self.num_spatial]  # (B, T, P)
        prompts = self.prompter(self._neighbours(patches, chosen))  # Eq. 1
        if self.gated:
            prompts = prompts * _pass_through(saliency.gather(-1, chosen))
        index = chosen.unsqueeze(-1).expand_as(prompts)
        prompted = patches.scatter_add(2, index, prompts.to(patches.dtype))  # Eq. 7
        region = torch.zeros_like(saliency, dtype=torch.bool)
        return prompted, region.scatter(-1, chosen, 1)  # jit.trace: no bool

    @staticmethod
    def _neighbours(patches: Tensor, chosen: Tensor) -> Tensor:
        """Gather h_{i-1}, h_i, h_{i+1} at the chosen patches: (B, T, P, 3 D)."""
        before = torch.cat([patches[:, :1], patches[:, :-1]], dim=1)
        after = torch.cat([patches[:, 1:], patches[:, -1:]], dim=1)
        index = chosen.unsqueeze(-1).expand(-1, -1, -1, patches.shape[-1])
        return torch.cat([x.gather(2, index) for x in (before, patches, after)], dim=-1)


class TemporalPrompter(nn.Module):
    """Measure how much each gap changes and make its prompts (Eq. 8 to 12).

    Args:
        width: D of the tokens.
        grid: rows and columns of the patches.
        temporal_scale: eta, the largest number of prompts a gap, at least 1.
        beta: extra weight of the prompted patches, not negative.
        gated: let the gradient through the choice.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        temporal_scale: int,
        beta: float,
        gated: bool,
    ) -> None:
        super().__init__()
        self.temporal_scale = temporal_scale
        self.beta = beta
        self.gated = gated
        self.scorer = PatchConv3d(width, grid).requires_grad_(gated)
        self.trunk = nn.Sequential(
            nn.Linear(width, BOTTLENECK),
            nn.GELU(),
            nn.Flatten(-2),
            nn.Linear(BOTTLENECK * grid[0] * grid[1], TEMPORAL_HIDDEN),
            nn.GELU(),
        )
        # Eq. 12's bank of eta final layers, as one: the n-th gives n tokens, which
        # follow those of the layers before it.
        num_tokens = temporal_scale * (temporal_scale + 1) // 2
        self.bank = nn.Linear(TEMPORAL_HIDDEN, num_tokens * width)
        _init_last(self.bank)

    def forward(self, patches: Tensor, region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt the gaps of (B, T, N, D), whose prompted patches are r (B, T, N).

        Returns:
            prompts (B, T - 1, eta, D), of which gap i's first N_i^t count; W^t
            (B, T - 1); N^t (B, T - 1), int64.
        """
        num_gaps = patches.shape[1] - 1
        if num_gaps == 0:  # an image stands still; its gap is dropped again below
            patches, region = patches.repeat(1, 2, 1, 1), region.repeat(1, 2, 1)
        change = patches.diff(dim=1)  # Eq. 8
        variation = self._variation(change, patches, region[:, 1:])
        # A NaN shows up in the loss, as a count it would be an index out of range.
        share = variation.detach().nan_to_num(nan=1.0)
        count = (self.temporal_scale * share).ceil().long()  # Eq. 11
        prompts = self._prompts(change, count)
        if self.gated:
            prompts = prompts * _pass_through(variation)[..., None]
        return prompts[:, :num_gaps], variation[:, :num_gaps], count[:, :num_gaps]

    def _variation(self, change: Tensor, patches: Tensor, region: Tensor) -> Tensor:
        """Compute W^t (B, T - 1), in [0, 1] within each video (Eq. 9, 10)."""
        energy = at_least_float32(self.scorer(change)).square().mean(-1)
        energy = (energy * (1 + self.beta * region)).mean(-1)
        low, high = energy.amin(1, keepdim=True), energy.amax(1, keepdim=True)
        size = at_least_float32(patches).square().mean((1, 2, 3))
        still = high < STILL * size[:, None]
        alike = high - low <= ALIKE * high
        # Where a video is still or alike, the quotient is replaced: keep it finite.
        span = torch.where(still | alike, torch.ones_like(high), high - low)
        variation = ((energy - low) / span).masked_fill(alike, 1.0)
        return variation.masked_fill(still, 0.0)

    def _prompts(self, change: Tensor, count: Tensor) -> Tensor:
        """Take layer N^t of the bank for each gap: (B, T - 1, eta, D) (Eq. 12)."""
        tokens = self.bank(self.trunk(change)).unflatten(-1, (-1, change.shape[-1]))
        slots = torch.arange(self.temporal_scale, device=count.device)
        index = (count * (count - 1) // 2).unsqueeze(-1) + slots  # (B, T - 1, eta)
        # Slots beyond a gap's count are never looked at; keep their index in range.
        index = index.clamp(max=tokens.shape[2] - 1)
        index = index.unsqueeze(-1).expand(*index.shape, tokens.shape[-1])
        return tokens.gather(2, index)


@MODELS.register_module()
class STOPCLIPViT(TunedTower):
    """Adapt a frozen CLIP to video with STOP's two prompters.

    (B, 3, T, H, W) -> (B, E), with T >= 1 and H, W as the tower was built. An image is
    a video of one frame and has no temporal prompts. ``attention='joint'`` is the
    paper's: one sequence of all frames with one CLS token, whose unit-norm projection
    is the embedding. ``'frame'`` is CLIP4Clip's: every frame is its own sequence with
    the prompts of the gap before it, and the frames' unit-norm CLS projections are
    averaged.

    Args:
        clip: config of the video tower.
        num_spatial: N_s, spatial prompts a frame, in [0, N]; 0 turns them off.
        temporal_scale: eta, the scale and largest number of temporal prompts a gap; 0
            turns them off.
        alpha: weight of attention against dynamics in the saliency, in [0, 1].
        beta: extra weight of the prompted patches in the variation, not negative.
        attention: 'joint' or 'frame'.
        selection: 'straight_through' lets gradients through the choices; 'hard' does
            not, and freezes the scorers, which could not learn.
        normalize_dynamics: divide M of Eq. 4 by its sum over a frame's patches.

    Raises:
        ValueError: an argument is out of its range.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        num_spatial: int = 6,
        temporal_scale: int = 12,
        alpha: float = 0.4,
        beta: float = 4.0,
        attention: str = 'joint',
        selection: str = 'straight_through',
        normalize_dynamics: bool = True,
    ) -> None:
        _check_choice('attention', attention, ('joint', 'frame'))
        _check_choice('selection', selection, ('straight_through', 'hard'))
        _check_range('alpha', alpha, 0, 1)
        _check_range('beta', beta, 0, float('inf'))
        _check_range('temporal_scale', temporal_scale, 0, float('inf'))
        super().__init__(clip)
        N = self.grid[0] * self.grid[1]
        _check_range('num_spatial', num_spatial, 0, N, "the tower's patches per frame")
        self.attention = attention
        gated = selection == 'straight_through'
        self.spatial: Optional[SpatialPrompter] = None
        if num_spatial:
            self.spatial = SpatialPrompter(
                self.width, self.grid, num_spatial, alpha, normalize_dynamics, gated
            )
        self.temporal: Optional[TemporalPrompter] = None
        if temporal_scale:
            self.temporal = TemporalPrompter(
                self.width, self.grid, temporal_scale, beta, gated
            )

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        prompted = self._prompt(video)
        if self.merge and self.spatial is not None:
            prompted = _protect_region(prompted, self.spatial.num_spatial)
        frames, patches = prompted.patches.shape[1:3]
        if self.attention == 'joint':
            x, mask = _joint_sequence(prompted)
        else:
            x, mask = _frame_sequences(prompted)
            frames = 1
        return self.pool(self.encode(x, mask, frames, patches), video)

    @torch.no_grad()
    def trace(self, video: Tensor) -> STOPTrace:
        """Tell what is chosen for a batch of clips, (B, 3, T, H, W)."""
        return self._prompt(video).trace

    def _prompt(self, video: Tensor) -> _Prompted:
        tokens = self.embed(video)  # (B, T, 1 + N, D)
        B, T, _, D = tokens.shape
        attention = self.cls_attention(0, tokens)  # Eq. 2
        cls, patches = tokens[:, :, :1], tokens[:, :, 1:]
        dynamics = saliency = torch.zeros_like(attention)
        region = torch.zeros_like(attention, dtype=torch.bool)
        if self.spatial is not None:
            dynamics, saliency = self.spatial.score(patches, attention)
            patches, region = self.spatial(patches, saliency)
        prompts = patches.new_zeros(B, T - 1, 0, D)
        variation = attention.new_zeros(B, T - 1)
        count = torch.zeros_like(variation, dtype=torch.long)
        if self.temporal is not None:
            prompts, variation, count = self.temporal(patches, region)
        trace = STOPTrace(attention, dynamics, saliency, region, variation, count)
        return _Prompted(cls, patches[:, :, :0], patches, prompts, trace)


def _protect_region(x: _Prompted, num_spatial: int) -> _Prompted:
    """Part the patches of the region r (Eq. 6) from those that may merge."""
    order = (~x.trace.region).int().argsort(dim=-1, stable=True)
    index = order.unsqueeze(-1).expand_as(x.patches)
    sizes = [num_spatial, index.shape[2] - num_spatial]
    protected, patches = x.patches.gather(2, index).split(sizes, dim=2)
    return replace(x, protected=protected, patches=patches)


def _joint_sequence(x: _Prompted) -> tuple[Tensor, Optional[Tensor]]:
    """Join all frames and prompts: tokens (B, 1, L, D) and their mask, or None.

    Attention has no order of its own and prompts carry no position, so all of a video's
    prompts stand together behind CLS, and shorter videos are padded there.
    """
    patches = [x.protected.flatten(1, 2), x.patches.flatten(1, 2)]
    if 0 in x.prompts.shape[1:3] and not torch.is_grad_enabled():
        # ONNX cannot flatten nothing. Training does: its prompter must get a gradient.
        return torch.cat([x.cls[:, 0], *patches], dim=1)[:, None], None
    prompts, keep = _pack(x.prompts.flatten(1, 2), _used(x).flatten(1))
    tokens = torch.cat([x.cls[:, 0], prompts, *patches], dim=1)
    mask = _key_mask(keep, tokens.shape[1])
    return tokens[:, None], None if mask is None else mask[:, None]


def _frame_sequences(x: _Prompted) -> tuple[Tensor, Optional[Tensor]]:
    """Give each frame the prompts of the gap before it: (B, T, L, D) and its mask."""
    keep = F.pad(_used(x), (0, 0, 1, 0))  # no gap before the first frame
    prompts, keep = _pack(F.pad(x.prompts, (0, 0, 0, 0, 1, 0)), keep)
    tokens = torch.cat([x.cls, prompts, x.protected, x.patches], dim=2)
    return tokens, _key_mask(keep, tokens.shape[2])


def _used(x: _Prompted) -> Tensor:
    """Mark the slots that hold one of a gap's N^t prompts: (B, T - 1, eta), bool."""
    slots = torch.arange(x.prompts.shape[2], device=x.prompts.device)
    return slots < x.trace.num_prompts[..., None]


def _pack(prompts: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept prompts to the front and cut what no sequence needs.

    (..., P, D) and (..., P), bool -> (..., P', D) and (..., P') with P' <= P.
    """
    if torch.compiler.is_compiling():  # when no shape may depend on a value
        return prompts, keep
    longest = int(keep.sum(-1).amax()) if keep.numel() else 0
    order = keep.int().argsort(dim=-1, descending=True, stable=True)[..., :longest]
    index = order.unsqueeze(-1).expand(*order.shape, prompts.shape[-1])
    return prompts.gather(-2, index), keep.gather(-1, order)


def _key_mask(keep: Tensor, length: int) -> Optional[Tensor]:
    """Hide the padding behind CLS: (..., P), bool -> (..., 1, L); None without any."""
    if not torch.compiler.is_compiling() and bool(keep.all()):
        return None
    mask = F.pad(keep, (1, length - 1 - keep.shape[-1]), value=True)
    return mask.unsqueeze(-2)


def _pass_through(score: Tensor) -> Tensor:
    """One forward, the score's gradient backward: (...) -> (..., 1)."""
    return (1 + score - score.detach()).unsqueeze(-1)


def _init_last(layer: Any) -> None:
    """Start prompts small but not at zero, where the gates would get no gradient."""
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f'{name}={value!r} is unknown; say one of {choices}')


def _check_range(
    name: str, value: float, low: float, high: float, why: str = 'its range'
) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        raise ConfigError(f'{name}={value} is outside [{low}, {high}], {why}')
