"""CLIP's video tower."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.errors import ConfigError, check_range, typed
from mmstop.registry import MODELS

from .base import at_least_float32
from .clip import CLIPTower

__all__ = ['CLIPViT']


@MODELS.register_module()
class CLIPViT(CLIPTower):
    """CLIP's video tower: it encodes each frame separately and averages over frames.

    (B, 3, T, H, W) -> (B, E): the mean over frames of the unit-norm projected CLS.
    Images, (B, 3, H, W), count as videos of one frame, here and in all methods.
    ``H`` and ``W`` must match the architecture, and the pixels must be normalised with
    CLIP's mean and standard deviation.

    Args:
        merge: number of patch pairs per frame that every block but the last merges,
            each into one token. This makes the tower faster but approximate; 0 turns
            it off.
        checkpoint: recompute the blocks' activations in the backward pass instead of
            keeping them, which saves memory and costs time.
        arch, weights, trainable, lora: see :class:`CLIPTower`.

    Raises:
        ValueError: ``merge`` is negative or more than half of the patches.
    """

    @typed
    def __init__(
        self,
        arch: str,
        weights: Optional[str],
        trainable: Optional[str] = None,
        merge: int = 0,
        checkpoint: bool = False,
        lora: Optional[dict] = None,
    ) -> None:
        super().__init__(arch, weights, trainable, lora)
        half = self.grid[0] * self.grid[1] // 2
        check_range('merge', merge, 0, half, f'half of the patches of {self.arch}')
        self._merge = merge
        self._checkpoint = checkpoint

    @property
    def merge(self) -> int:
        return self._merge

    @property
    def checkpoint(self) -> bool:
        return self._checkpoint

    def _take(self, clip: Any) -> None:
        self.visual: Any = clip.visual
        text = clip.transformer
        self._text_size = len(text.resblocks), text.width

    @property
    def blocks(self) -> Any:
        return self.visual.transformer.resblocks

    @property
    def final_norm(self) -> nn.LayerNorm:
        return self.visual.ln_post

    @property
    def projection(self) -> nn.Parameter:
        return self.visual.proj

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's patches."""
        return self.visual.grid_size

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.visual.image_size
        return height, width

    @property
    def text_size(self) -> tuple[int, int]:
        return self._text_size

    def look_up(self, inputs: Tensor) -> Tensor:
        """Return CLS and the projected patches: (B, 3, T, H, W) -> (B, T, 1 + N, D).

        Images, (B, 3, H, W), count as videos of one frame.

        Raises:
            ValueError: the frames do not have the size that the tower was built for.
        """
        self._check(inputs)
        if inputs.dim() == 4:
            inputs = inputs.unsqueeze(2)
        B, _, T = inputs.shape[:3]
        frames = inputs.transpose(1, 2).flatten(0, 1)
        x = self.visual.conv1(frames).flatten(2).transpose(1, 2)  # (BT, N, D)
        cls = self.visual.class_embedding.expand(B * T, 1, -1).to(x)
        return torch.cat([cls, x], dim=1).unflatten(0, (B, T))

    def place(self, x: Tensor) -> Tensor:
        return self.visual.ln_pre(x + self.visual.positional_embedding)

    def _check(self, video: Tensor) -> None:
        size = self.image_size
        if video.dim() not in (4, 5) or video.shape[1] != 3 or video.shape[2] < 1:
            raise ValueError(
                f'got a video of shape {tuple(video.shape)}, expected (B, 3, T, H, W) '
                f'with T >= 1, or images (B, 3, H, W); end a video pipeline with '
                f"FormatShape(input_format='NCTHW')"
            )
        if tuple(video.shape[-2:]) != size:
            raise ConfigError(
                f'got frames of {tuple(video.shape[-2:])} pixels, {self.arch} was '
                f'built for {size}; resize and crop to {size} in the pipeline, or '
                f'choose an architecture with another image size'
            )

    def read(self, x: Tensor) -> Tensor:
        """Select CLS: (..., L, D) -> (..., 1, D)."""
        return x[..., : self.num_prefix, :]

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Average the unit-norm projected CLS over frames: (B, T, L, D) -> (B, E)."""
        return F.normalize(self.project(x[:, :, 0]), dim=-1).mean(dim=1)

    def cls_attention(self, i: int, x: Tensor) -> Tensor:
        N = self.grid[0] * self.grid[1]
        cls, patches = (
            self.normalize(i, x[..., 0, :]),
            self.normalize(i, x[..., -N:, :]),
        )
        scores = self._scores(i, cls, patches)
        return at_least_float32(scores).softmax(-1).mean(-2)  # over heads
