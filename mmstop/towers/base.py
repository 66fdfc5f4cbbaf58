"""The interface shared by the CLIP towers and all methods that wrap them."""

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmstop.registry import MODELS

from .merging import PatchMerger

__all__ = ['Tower', 'TunedTower', 'at_least_float32']


class Tower(nn.Module):
    """A transformer encoder split into four steps: embed, attend, feed, pool.

    Video tokens are (B, T, L, D), one sequence per frame; text tokens are (B, L, D).
    Token 0 is CLS (or start of text) and the patches are the last N tokens of a frame.
    """

    @property
    def width(self) -> int:
        """Width of the tokens, D."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """Number of blocks."""
        raise NotImplementedError

    @property
    def out_dim(self) -> int:
        """Width of the joint embedding, E."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's patch grid (video towers only)."""
        raise NotImplementedError

    @property
    def merge(self) -> int:
        """Number of patch pairs per frame that every block merges."""
        return 0

    @property
    def checkpoint(self) -> bool:
        """Whether activations are recomputed in the backward pass instead of kept."""
        return False

    def embed(self, inputs: Tensor) -> Tensor:
        """Turn inputs into the tokens that enter the first block.

        (B, 3, T, H, W) -> (B, T, 1 + N, D) for video, (B, L) -> (B, L, D) for text.
        """
        raise NotImplementedError

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Run the attention branch of block ``i``, without the residual.

        Args:
            i: index of the block, in [0, depth).
            x: queries (..., L, D), before the block's LayerNorm.
            context: keys and values (..., M, D), before the same LayerNorm; ``x``
                itself when None.
            mask: broadcasts to (..., L, M); either bool, True where a query may attend,
                or float, added to the scores.
        Returns:
            the update to the residual stream, (..., L, D).
        """
        raise NotImplementedError

    def feed(self, i: int, x: Tensor) -> Tensor:
        """Run the MLP branch of block ``i``, without the residual: (..., D)."""
        raise NotImplementedError

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Pool the last block's output into one embedding per sample: (B, E)."""
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """Apply the final LayerNorm and projection: (..., D) -> (..., E)."""
        raise NotImplementedError

    def cls_attention(self, i: int, x: Tensor) -> Tensor:
        """Compute the attention of CLS to its own frame's patches in block ``i``.

        Returns:
            softmax over the patches, averaged over the heads: (..., L, D) -> (..., N).
        """
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Embed a batch: (B, 3, T, H, W) or (B, L) -> (B, E), not normalised."""
        return self.pool(self.encode(self.embed(inputs)), inputs)

    def encode(
        self,
        x: Tensor,
        mask: Optional[Tensor] = None,
        frames: int = 1,
        patches: Optional[int] = None,
        first: int = 0,
    ) -> Tensor:
        """Run the blocks, the last one only for the tokens that ``pool`` reads.

        Args:
            x: tokens (..., L, D).
            mask: as in :meth:`attend`.
            frames: number of frames in a sequence, if the tower merges patches.
            patches: number of patches per frame that may merge; they are the last
                frames * patches tokens of the sequence. All N when None.
            first: index of the first block to run.
        Returns:
            tokens (..., R, D).
        """
        merger = None
        if self.merge:
            rows, columns = self.grid
            patches = rows * columns if patches is None else patches
            merger = PatchMerger(self.merge, frames, patches)
        for i in range(first, self.depth):
            context, last = x, i == self.depth - 1
            seen = mask if merger is None else merger.mask(mask, x)
            if last:
                x = self.read(x)
            x = x + self._branch(self.attend, i, x, context, seen)
            if merger is not None and not last:
                x = merger(x)
            x = x + self._branch(self.feed, i, x)
        return x

    def _branch(self, branch: Callable[..., Tensor], *args: Any) -> Tensor:
        """Run a branch of a block, with activation checkpointing if it is on."""
        if self.checkpoint and torch.is_grad_enabled():
            return checkpoint(branch, *args, use_reentrant=False)
        return branch(*args)

    def read(self, x: Tensor) -> Tensor:
        """Select the tokens that ``pool`` reads: (..., L, D) -> (..., R, D)."""
        return x


class TunedTower(Tower):
    """A tower that wraps another and delegates whatever it does not override.

    Args:
        clip: config of the wrapped tower, e.g. ``dict(type='CLIPViT', ...)``. The
            wrapped tower may itself be a method.
    """

    def __init__(self, clip: dict) -> None:
        super().__init__()
        self.clip: Tower = MODELS.build(clip)

    @property
    def width(self) -> int:
        return self.clip.width

    @property
    def depth(self) -> int:
        return self.clip.depth

    @property
    def out_dim(self) -> int:
        return self.clip.out_dim

    @property
    def grid(self) -> tuple[int, int]:
        return self.clip.grid

    @property
    def merge(self) -> int:
        return self.clip.merge

    @property
    def checkpoint(self) -> bool:
        return self.clip.checkpoint

    def embed(self, inputs: Tensor) -> Tensor:
        return self.clip.embed(inputs)

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        return self.clip.attend(i, x, context, mask)

    def feed(self, i: int, x: Tensor) -> Tensor:
        return self.clip.feed(i, x)

    def read(self, x: Tensor) -> Tensor:
        return self.clip.read(x)

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        return self.clip.pool(x, inputs)

    def project(self, x: Tensor) -> Tensor:
        return self.clip.project(x)

    def cls_attention(self, i: int, x: Tensor) -> Tensor:
        return self.clip.cls_attention(i, x)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision to float32; leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
