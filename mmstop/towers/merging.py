"""Token merging: fewer patches from block to block.

"Token Merging: Your ViT But Faster", ICLR 2023, https://arxiv.org/abs/2210.09461: every
block splits the patches into two sets and merges those of the first set that are most
similar to a patch of the second. There are two differences from the paper. Similarity
is the cosine of the tokens themselves, since a method's ``attend`` does not expose its
keys. Patches merge within a group, which is a frame or a few neighbouring ones; several
frames merge as in "TempMe: Video Temporal Token Merging for Efficient Text-Video
Retrieval", ICLR 2025, https://arxiv.org/abs/2409.01156.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['PatchMerger', 'clips_to_join', 'match', 'rows_of', 'take']


class PatchMerger:
    """Merge patches; each instance holds the state of one forward pass.

    Args:
        pairs: number of pairs per group that a block merges, at least 1.
        groups: number of groups in a sequence.
        patches: number of patches per group that may merge. They are the last
            groups * patches tokens of a sequence; CLS, prompts and protected patches
            come before them.
    """

    def __init__(self, pairs: int, groups: int, patches: int) -> None:
        self.pairs = pairs
        self.groups = groups
        self.patches = patches
        self.sizes: Optional[Tensor] = None  # (..., groups, patches), once not all 1
        self._rounds: list[tuple[Tensor, ...]] = []  # results of match in the last call

    def mask(self, mask: Optional[Tensor], x: Tensor) -> Optional[Tensor]:
        """Weight each token in attention by the number of patches it represents.

        Args:
            mask: as in ``attend``: bool, broadcasting to (..., L, L), or None.
            x: tokens (..., L, D).
        Returns:
            the mask to use instead, float or None.
        """
        if mask is not None:
            mask = mask[..., : x.shape[-2]]  # only patches merge, and it hides none
        if self.sizes is None:
            return mask
        weight = self.sizes.flatten(-2).log().to(x.dtype)
        weight = F.pad(weight, (x.shape[-2] - weight.shape[-1], 0)).unsqueeze(-2)
        return weight if mask is None else weight.masked_fill(~mask, -torch.inf)

    def __call__(self, x: Tensor, blocks: int = 1) -> Tensor:
        """Merge as many patches as so many blocks would: (..., L, D) -> (..., L', D).

        A block merges at most half of a group. Several blocks' pairs merge in as few
        rounds as possible.
        """
        target = self.patches
        for _ in range(blocks):
            target = target - min(self.pairs, target // 2)
        self._rounds = []
        while self.patches > target:
            x = self._merge(x, min(self.patches - target, self.patches // 2))
        return x

    def _merge(self, x: Tensor, pairs: int) -> Tensor:
        rest = x.shape[-2] - self.groups * self.patches
        tokens = x[..., rest:, :].unflatten(-2, (self.groups, self.patches))
        sizes = self.sizes
        if sizes is None:
            sizes = torch.ones(tokens.shape[:-1], dtype=tokens.dtype, device=x.device)
        else:
            tokens = tokens * sizes.unsqueeze(-1)
        found = match(tokens, pairs)
        tokens = _merge(tokens, *found)
        self.sizes = _merge(sizes.unsqueeze(-1), *found).squeeze(-1)
        self._rounds.append(found)
        # Not in place: under torch.jit.trace the caller holds the same tensor.
        self.patches = self.patches - pairs
        tokens = (tokens / self.sizes.unsqueeze(-1)).flatten(-3, -2)
        return torch.cat([x[..., :rest, :], tokens], dim=-2)

    def spread(self, x: Tensor) -> Tensor:
        """Undo the last call: every patch gets a copy of the token it merged into.

        (..., L', D) -> (..., L, D).
        """
        rest, n = x.shape[-2] - self.groups * self.patches, self.patches
        tokens = x[..., rest:, :].unflatten(-2, (self.groups, n))
        for merged, kept, partner in reversed(self._rounds):
            n = n + merged.shape[-1]
            tokens = take(tokens, _places(merged, kept, partner, n))
        return torch.cat([x[..., :rest, :], tokens.flatten(-3, -2)], dim=-2)


def match(tokens: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose which of the tokens (..., n, D) to merge.

    Returns:
        indices of the first set's tokens that merge (..., pairs) and of those that do
        not (..., others), and for the former their partners' indices in the second set
        (..., pairs).
    """
    unit = F.normalize(tokens.detach(), dim=-1)
    likeness = unit[..., ::2, :] @ unit[..., 1::2, :].transpose(-2, -1)
    best, partner = likeness.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, kept = order[..., :pairs], order[..., pairs:]
    return merged, kept, partner.gather(-1, merged)


def clips_to_join(clips: int, wanted: int) -> int:
    """Return the smallest divisor of ``clips`` that is at least ``wanted``, or all."""
    return next((n for n in range(wanted, clips) if clips % n == 0), clips)


def _merge(x: Tensor, merged: Tensor, kept: Tensor, partner: Tensor) -> Tensor:
    """Add the merged tokens to their partners: (..., n, D) -> (..., n', D)."""
    moved, second = take(x, 2 * merged), x[..., 1::2, :]
    second = second.scatter_add(-2, partner.unsqueeze(-1).expand_as(moved), moved)
    return torch.cat([take(x, 2 * kept), second], dim=-2)


def _places(merged: Tensor, kept: Tensor, partner: Tensor, n: int) -> Tensor:
    """Return the index where :func:`_merge` put each of n tokens: (..., n), int64."""
    k = kept.shape[-1]
    places = torch.arange(n, device=kept.device)
    first = torch.zeros_like(torch.cat([merged, kept], dim=-1))
    first = first.scatter(-1, kept, places[:k].expand_as(kept))
    first = first.scatter(-1, merged, k + partner)
    second = (k + places[: n // 2]).expand(*first.shape[:-1], -1)
    # Tokens 0, 2, ... are the first set; 1, 3, ... are the second.
    return torch.cat([first, second], -1)[
        ..., places // 2 + places % 2 * ((n + 1) // 2)
    ]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Take tokens by their indices: (..., L, D), (..., k) -> (..., k, D)."""
    # Several times as fast as torch.gather, whose index would be (..., k, D).
    return F.embedding(rows_of(index, x.shape[-2]), x.flatten(0, -2))


def rows_of(index: Tensor, length: int) -> Tensor:
    """Turn indices (..., k) in sequences of a length into rows of all sequences."""
    sequences = index.flatten(0, -2).shape[0]
    start = torch.arange(sequences, device=index.device) * length
    return index + start.view(*index.shape[:-1], 1)
