"""The interface that the CLIP towers and all methods share."""

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .merging import PatchMerger

__all__ = ['Tower', 'at_least_float32', 'shared_prompts']


class Tower(nn.Module):
    """A transformer encoder split into four steps: embed, attend, feed, pool.

    Video tokens are (B, T, L, D), one sequence per frame; text tokens are (B, L, D).
    The first ``num_prefix`` tokens are CLS (or start of text), and the patches are the
    last N tokens of a frame.
    """

    num_prefix = 1

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
    def image_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels (video towers only)."""
        raise NotImplementedError

    @property
    def merge(self) -> int:
        """Number of patch pairs per frame that every block merges."""
        return 0

    @property
    def checkpoint(self) -> bool:
        """Whether activations are recomputed in the backward pass instead of kept."""
        return False

    @property
    def text_size(self) -> tuple[int, int]:
        """Depth and width of the text tower beside this one (video towers only)."""
        raise NotImplementedError

    def embed(self, inputs: Tensor) -> Tensor:
        """Turn inputs into the tokens that enter the first block.

        (B, 3, T, H, W) -> (B, T, 1 + N, D) for video, (B, L) -> (B, L, D) for text.
        """
        return self.place(self.look_up(inputs))

    def look_up(self, inputs: Tensor) -> Tensor:
        """Turn inputs into tokens without positions; shapes as in :meth:`embed`."""
        raise NotImplementedError

    def place(self, x: Tensor) -> Tensor:
        """Add the positions, and apply the first LayerNorm if the tower has one."""
        raise NotImplementedError

    def text_prompts(self) -> Optional[Tensor]:
        """Return the prompts that a video tower makes for the text tower.

        They are (depth, P, D), of :attr:`text_size`, or None.
        """
        return None

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
        if context is x:
            context = None
        if context is not None:
            context = self.normalize(i, context)
        return self.attend_normalized(i, self.normalize(i, x), context, mask)

    def attend_normalized(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Run :meth:`attend` on tokens that have passed the block's LayerNorm."""
        raise NotImplementedError

    def normalize(self, i: int, x: Tensor) -> Tensor:
        """Apply the LayerNorm before the attention of block ``i``: (..., D)."""
        raise NotImplementedError

    def mean_keys(self, i: int, x: Tensor) -> Tensor:
        """Average the keys of block ``i`` over heads: (..., D) -> (..., D / heads)."""
        raise NotImplementedError

    def feed(self, i: int, x: Tensor) -> Tensor:
        """Run the MLP branch of block ``i``, without the residual: (..., D)."""
        raise NotImplementedError

    def normalize_mlp(self, i: int, x: Tensor) -> Tensor:
        """Apply the LayerNorm before the MLP of block ``i``: (..., D)."""
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
        merger: Optional[PatchMerger] = None,
        first: int = 0,
    ) -> Tensor:
        """Run the blocks, the last one only for the tokens that ``pool`` reads.

        Args:
            x: tokens (..., L, D).
            mask: as in :meth:`attend`.
            merger: what merges the patches after each block but the last. When None,
                a sequence is a frame, and all of its patches may merge.
            first: index of the first block to run.
        Returns:
            tokens (..., R, D).
        """
        if merger is None and self.merge:
            rows, columns = self.grid
            merger = PatchMerger(self.merge, 1, rows * columns)
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


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision to float32; leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def shared_prompts(backbone: nn.Module) -> tuple[Tensor, ...]:
    """Return what to pass to the text tower besides the tokens: prompts or nothing."""
    prompts = backbone.text_prompts() if isinstance(backbone, Tower) else None
    return () if prompts is None else (prompts,)
