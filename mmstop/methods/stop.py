"""STOP: prompts on the patches that matter and between the frames that change.

"STOP: Integrated Spatial-Temporal Dynamic Prompting for Video Understanding", CVPR
2025, https://arxiv.org/abs/2503.15973. Equation numbers are the paper's. This is how
the implementation interprets the paper, and where it differs:

- Figure 2 puts both prompters into the encoder's repeated block. One set of modules
  therefore makes new prompts at the input of every block, with that block's own
  attention as A. Temporal prompts are keys and values of one block only. ``depth=1``
  follows the equations alone: prompts at the input of the first block.
- Eq. 4: the dynamics of a frame are divided by their sum, so that both terms of Eq. 5
  are distributions over patches. ``normalize_dynamics=False`` is the literal reading.
- Eq. 6 and 11 are step functions, which pass no gradient. The forward values are kept,
  and a straight-through gate lets the gradient reach the scores.
  ``selection='hard'`` turns the gate off and leaves the two scorers at their
  initialisation, as in the authors' released code.
- Eq. 10 has no scale of its own and is normalised to [0, 1] within each video.
  ``normalize_variation='batch'`` normalises over the batch, as the authors' code does.
- Eq. 12: panel (c) of Figure 2 feeds P^t with the prompted tokens, the equation with
  their differences. Both kinds of ``prompter`` get the differences.

docs/authors.md compares text, figure, the authors' code and this file row by row.
"""

import warnings
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from mmstop.errors import ConfigError, check_choice, check_range, typed
from mmstop.registry import MODELS
from mmstop.towers import PatchMerger, TunedTower
from mmstop.towers.merging import clips_to_join

from .stop_prompters import SpatialPrompter, TemporalPrompter
from .stop_sequences import (
    Prompted,
    frame_sequences,
    frames_of,
    joint_sequence,
    protect,
    without_prompts,
)

__all__ = ['STOPCLIPViT', 'STOPTrace']


@dataclass
class STOPTrace:
    """What STOP selected for a batch of videos, for plots, tests and papers.

    Attributes:
        attention: A of Eq. 2, (B, T, N), each frame sums to 1.
        dynamics: M of Eq. 4, (B, T, N), each frame sums to 1 if normalised.
        saliency: W^s of Eq. 5, (B, T, N).
        region: r of Eq. 6, (B, T, N), bool, ``num_spatial`` per frame.
        variation: W^t of Eq. 10, (B, T - 1), in [0, 1].
        num_prompts: N^t of Eq. 11, (B, T - 1), int64, in [0, temporal_scale].

    A part that is turned off leaves zeros: ``dynamics``, ``saliency`` and ``region``
    without spatial prompts, ``variation`` and ``num_prompts`` without temporal ones.
    """

    attention: Tensor
    dynamics: Tensor
    saliency: Tensor
    region: Tensor
    variation: Tensor
    num_prompts: Tensor


@MODELS.register_module()
class STOPCLIPViT(TunedTower):
    """Adapt a frozen CLIP to video with STOP's two prompters.

    (B, 3, T, H, W) -> (B, E), with T >= 1 and the H, W that the tower was built for. An
    image counts as a video of one frame and has no temporal prompts.
    ``attention='joint'`` follows the paper: one sequence of all frames with one CLS
    token, whose unit-norm projection is the embedding. ``'frame'`` follows CLIP4Clip:
    every frame is its own sequence with the prompts of the gap before it, and the
    frames' unit-norm CLS projections are averaged.

    Args:
        clip: config of the video tower.
        num_spatial: N_s, spatial prompts per frame, in [0, N]; 0 turns them off.
        temporal_scale: eta, the scale and maximum number of temporal prompts per gap; 0
            turns them off.
        alpha: weight of attention against dynamics in the saliency, in [0, 1].
        beta: extra weight of the prompted patches in the variation, at least 0.
        depth: number of blocks, counted from the first, that get new prompts at their
            input; None means all. After the last of them, its temporal prompts stay in
            the sequence as ordinary tokens.
        attention: 'joint' or 'frame'.
        selection: 'straight_through' lets gradients through the selection; 'hard' does
            not, and freezes the scorers, which could not learn.
        prompter: 'linear' for two linear layers per prompter, or 'figure' for the
            layers in Figure 2.
        strength: upper bound on the norm of a spatial prompt, as a fraction of the mean
            norm of its video's patches, positive; None means no bound.
        normalize_dynamics: divide M of Eq. 4 by its sum over a frame's patches.
        normalize_variation: 'video' brings W^t of Eq. 10 to [0, 1] within each video.
            'batch' takes the minimum and maximum over all gaps of all clips in the
            batch of this process, in training and evaluation alike. A clip's embedding
            then depends on the other clips of its batch; alone in its batch, it is that
            of 'video'. There are no running statistics.
        merge_frames: number of neighbouring frames whose patches may merge with each
            other, if ``clip.merge`` merges any and attention is joint. Where T is not
            divisible, it is the next larger divisor. ``clip.merge`` stays the number of
            pairs per frame.

    Raises:
        ValueError: an argument is out of range.
    Warns:
        UserWarning: ``normalize_variation='batch'``.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        num_spatial: int = 6,
        temporal_scale: int = 12,
        alpha: float = 0.4,
        beta: float = 4.0,
        depth: Optional[int] = None,
        attention: str = 'joint',
        selection: str = 'straight_through',
        prompter: str = 'linear',
        strength: Optional[float] = None,
        normalize_dynamics: bool = True,
        normalize_variation: str = 'video',
        merge_frames: int = 1,
    ) -> None:
        check_choice('attention', attention, ('joint', 'frame'))
        check_choice('selection', selection, ('straight_through', 'hard'))
        check_choice('prompter', prompter, ('linear', 'figure'))
        check_choice('normalize_variation', normalize_variation, ('video', 'batch'))
        check_range('alpha', alpha, 0, 1)
        check_range('beta', beta, 0, float('inf'))
        check_range('temporal_scale', temporal_scale, 0, float('inf'))
        if strength is not None and not 0 < strength < float('inf'):
            raise ConfigError(
                f'strength={strength} is not positive; set None for no bound'
            )
        check_range('merge_frames', merge_frames, 1, float('inf'))
        super().__init__(clip)
        if merge_frames > 1 and not (self.merge and attention == 'joint'):
            raise ConfigError(
                f'merge_frames={merge_frames} with clip.merge={self.merge} and '
                f'attention={attention!r} merges nothing over frames; set clip.merge '
                f"and attention='joint', or leave merge_frames out"
            )
        self.merge_frames = merge_frames
        N = self.grid[0] * self.grid[1]
        check_range('num_spatial', num_spatial, 0, N, "the tower's patches per frame")
        self.prompted_blocks = self.depth if depth is None else depth
        check_range('depth', self.prompted_blocks, 1, self.depth, "the tower's blocks")
        if normalize_variation == 'batch':
            warnings.warn(
                "normalize_variation='batch': the embedding of a video depends on the "
                'other videos in its batch; compare only results of one batch size, or '
                "use 'video'",
                stacklevel=3,
            )
        self.attention = attention
        gated = selection == 'straight_through'
        self.spatial: Optional[SpatialPrompter] = None
        if num_spatial:
            self.spatial = SpatialPrompter(
                self.width,
                self.grid,
                num_spatial,
                alpha,
                normalize_dynamics,
                gated,
                prompter,
                strength,
            )
        self.temporal: Optional[TemporalPrompter] = None
        if temporal_scale:
            self.temporal = TemporalPrompter(
                self.width,
                self.grid,
                temporal_scale,
                beta,
                gated,
                prompter,
                normalize_variation,
            )

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        last = self.prompted_blocks - 1
        x, mask, made = self._lay_out(last, self._before(last, video))
        merger = self._merger(made, x.shape[1]) if self.merge else None
        x = self.encode(x, mask, merger, first=last)
        return self.pool(x, video)

    @torch.no_grad()
    def trace(self, video: Tensor, block: int = 0) -> STOPTrace:
        """Return what STOP selects for a batch of clips, (B, 3, T, H, W).

        Args:
            block: index of the block at whose input the prompts are made, in
                [0, depth).

        Raises:
            ValueError: no prompts are made at the input of that block.
        """
        check_range(
            'block', block, 0, self.prompted_blocks - 1, 'the blocks that have prompts'
        )
        return self._prompt(block, self._before(block, video))[1]

    @torch.no_grad()
    def traces(self, video: Tensor) -> list[STOPTrace]:
        """Return what STOP selects at the input of every block that has prompts."""
        x, traces = self.embed(video), []
        for i in range(self.prompted_blocks):
            x = self._prompted_block(i - 1, x) if i else x
            traces.append(self._prompt(i, x)[1])
        return traces

    def _before(self, block: int, video: Tensor) -> Tensor:
        """Embed and run the blocks before ``block``.

        (B, 3, T, H, W) -> (B, T, 1 + N, D).
        """
        x = self.embed(video)
        for i in range(block):
            x = self._branch(self._prompted_block, i, x)
        return x

    def _prompted_block(self, i: int, x: Tensor) -> Tensor:
        """Run a block and drop its temporal prompts.

        (B, T, 1 + N, D) -> (B, T, 1 + N, D). The prompts serve only as keys and values,
        since nothing reads the block's outputs for them. If the tower merges patches,
        this block temporarily merges as many as i blocks would. The next block needs
        the whole grid, so each patch gets the update of the token that represented it.
        """
        T, N = x.shape[1], x.shape[2] - self.num_prefix
        context, mask, made = self._lay_out(i, x)
        S = context.shape[1]
        x = whole = merged = without_prompts(context, self.num_prefix, T // S * N)
        if i * self.merge:
            merger, before = self._merger(made, S), context.shape[2]
            context = merger(context, i)
            mask = merger.mask(mask, context)
            left = T // S * N - (before - context.shape[2])
            x = merged = without_prompts(context, self.num_prefix, left)
        x = x + self.attend(i, x, context, mask)
        x = x + self.feed(i, x)
        if i * self.merge:
            x = whole + merger.spread(x - merged)
        return frames_of(x, made)

    def _merger(self, made: Prompted, sequences: int) -> PatchMerger:
        """Make what merges the patches of some sequences."""
        T, n = made.patches.shape[1:3]
        span = made.span
        return PatchMerger(self.merge * span, T // sequences // span, n * span)

    def _lay_out(self, i: int, x: Tensor) -> tuple[Tensor, Optional[Tensor], Prompted]:
        """Prompt the input of block i, (B, T, 1 + N, D), and arrange it as sequences.

        Returns:
            tokens (B, S, L, D) of S sequences, their mask or None, and the prompted
            parts.
        """
        made, trace = self._prompt(i, x)
        if self.merge and self.spatial is not None:
            made = protect(made, trace.region, self.spatial.num_spatial)
        made.span = clips_to_join(x.shape[1], self.merge_frames)
        joint = self.attention == 'joint'
        return *(joint_sequence(made) if joint else frame_sequences(made)), made

    def _prompt(self, i: int, x: Tensor) -> tuple[Prompted, STOPTrace]:
        """Make the prompts of block i from its input, (B, T, 1 + N, D)."""
        B, T, _, D = x.shape
        attention = self.cls_attention(i, x)  # Eq. 2
        cls, patches = x.split([self.num_prefix, x.shape[2] - self.num_prefix], dim=2)
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
        return Prompted(cls, patches, prompts, count), trace
