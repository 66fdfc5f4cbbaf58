"""Rank videos and captions by their scores, in chunks and with exact ties."""

from collections.abc import Callable, Iterator
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['Adjust', 'dual_softmax', 'exact_ranks', 'inverted_softmax', 'ranks']

CHUNK = 2**22  # scores per chunk: 32 MB in float64
Adjust = Callable[[Tensor], Tensor]


def ranks(video: Tensor, text: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank in both directions, computing every score once and without sorting.

    The results equal those of :func:`exact_ranks`. Scores are computed in float32.
    Near-ties, where rounding could change the rank, are re-ranked in float64.

    Args:
        video: (V, E), float64 of unit norm.
        text: (C, E), float64 of unit norm.
        owner: (C,), the video of each caption, ascending; every video occurs.
    Returns:
        ranks of the captions among videos, (C,), of the videos among videos, (V,), and
        of the videos among captions, (V,), int64, from 1, as defined in
        :class:`VideoTextRetrieval`.
    """
    (V, E), C = video.shape, len(text)
    # Multiply with NumPy, since PyTorch may be set to less precision than float32.
    video32, text32 = video.float().numpy(), text.float().numpy()
    own = torch.linalg.vecdot(text, video[owner]).float()
    best = own.new_full((V,), -torch.inf).scatter_reduce(0, owner, own, 'amax')
    # An error bound for products of unit vectors, in any order of summation.
    slack = (E + 8) * torch.finfo(torch.float32).eps / 2
    # How many scores are surely less and how many possibly: (2, queries).
    less_t2v = torch.zeros(2, C, dtype=torch.int64)
    less_v2t, less_captions = torch.zeros(2, 2, V, dtype=torch.int64)
    counts = owner.bincount(minlength=V)
    first = F.pad(counts.cumsum(0), (1, 0))  # caption of each video, and C
    for videos in _chunks(first, max(1, CHUNK // V)):
        chunk = slice(int(first[videos.start]), int(first[videos.stop]))
        scores = torch.from_numpy(text32[chunk] @ video32.T)
        scores.scatter_(1, owner[chunk, None], -torch.inf)  # skip one's own video
        # Of each video in the chunk, what its best caption scores with all videos.
        groups = scores.split(counts[videos].tolist())
        tops = torch.stack([group.amax(0) for group in groups])
        less = torch.empty_like(scores)  # floats, which sum faster than bools
        for i, shift in enumerate((-slack, slack)):
            torch.lt(scores, own[chunk, None] + shift, out=less)
            less_t2v[i, chunk] = less.sum(1).long()
            torch.lt(scores, best + shift, out=less)
            less_captions[i] += less.sum(0).long()
            less_v2t[i] += (tops < best + shift).sum(0)
    # If one's own score is NaN, nothing counts as less, not even one's own entry.
    t2v = (1 + V - less_t2v[0]).clamp(max=V)
    v2t = (1 + V - less_v2t[0]).clamp(max=V)
    captions = (1 + C - less_captions[0]).clamp(max=1 + C - counts)
    one = torch.arange(V)
    again = less_t2v[0] != less_t2v[1]
    t2v[again], _ = exact_ranks(text[again], owner[again], video, one)
    again = less_captions[0] != less_captions[1]  # so wherever less_v2t differs
    v2t[again], captions[again] = exact_ranks(video[again], one[again], text, owner)
    return t2v, v2t, captions


def _chunks(first: Tensor, captions: int) -> Iterator[slice]:
    """Divide the videos into runs with about so many captions, or one video."""
    start, last = 0, len(first) - 1
    while start < last:
        stop = int(torch.searchsorted(first, first[start] + captions, right=True)) - 1
        yield slice(start, max(start + 1, stop))
        start = max(start + 1, stop)


def exact_ranks(
    queries: Tensor,
    query_owner: Tensor,
    gallery: Tensor,
    gallery_owner: Tensor,
    adjust: Optional[Adjust] = None,
) -> tuple[Tensor, Tensor]:
    """Rank the best of each query's own items among other videos and their items.

    Scores are computed in float64 and rounded to the precision of float32 before they
    are compared. So equal features tie, although a matrix product may sum in a
    different order at different positions.

    Args:
        queries: (Q, E), float64 of unit norm.
        query_owner: (Q,), the index of each query's video.
        gallery: (G, E), float64 of unit norm.
        gallery_owner: (G,), the index of each item's video, ascending; every query's
            video occurs.
        adjust: function applied to scores (queries, G) before they are compared.
    Returns:
        ranks among videos, each by its best item, and among items: both (Q,), int64,
        from 1.
    """
    owners, counts = gallery_owner.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).numpy()
    # In place, since a list of small results would keep whole chunks in memory.
    by_video, by_item = torch.empty_like(query_owner), torch.empty_like(query_owner)
    for start in range(0, len(queries), rows := max(1, CHUNK // len(gallery))):
        chunk = slice(start, start + rows)
        scores = queries[chunk] @ gallery.T
        if adjust is not None:
            scores = adjust(scores)
        scores = _rounded(scores)
        tops = torch.from_numpy(np.maximum.reduceat(scores.numpy(), starts, axis=1))
        own = query_owner[chunk, None] == owners
        best = tops.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        by_video[chunk] = 1 + (~(tops < best) & ~own).sum(1)
        own = query_owner[chunk, None] == gallery_owner
        by_item[chunk] = 1 + (~(scores < best) & ~own).sum(1)
    return by_video, by_item


def _rounded(x: Tensor) -> Tensor:
    """Round float64 to the precision of float32, but keep its range.

    Dual-softmax scores are often too small for float32, where they would all tie.
    """
    lost = 52 - 23  # mantissa bits
    bits = x.view(torch.int64) + (1 << lost - 1)
    return (bits >> lost << lost).view(torch.float64)


def dual_softmax(queries: Tensor, gallery: Tensor, temperature: float) -> Adjust:
    """Weight each score by the item's softmax over all queries.

    The score s becomes s * exp(s / temperature) / (sum of exp(s' / temperature) over
    the item's scores s' for all queries).
    """
    mass, _ = _survey(queries, gallery, 1 / temperature)
    return lambda scores: scores * (scores / temperature - mass).exp()


def inverted_softmax(bank: Tensor, gallery: Tensor, beta: float) -> Adjust:
    """Divide scores by the item's mass over the bank if the nearest item is a hub.

    A hub is an item that is the nearest one to some query of the bank. For queries
    whose nearest item is a hub, the score s of an item becomes exp(beta s) divided by
    the sum of exp(beta s) over the bank. The other queries keep their scores.
    """
    mass, hubs = _survey(bank, gallery, beta)

    def adjust(scores: Tensor) -> Tensor:
        near_a_hub = hubs[scores.argmax(1)]
        return torch.where(near_a_hub[:, None], beta * scores - mass, scores)

    return adjust


def _survey(queries: Tensor, gallery: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Compute the log-sum of exp(scale * score) over queries, and mark nearest items.

    Returns:
        (G,) float64, and (G,) bool, True if an item is the nearest to some query.
    """
    mass = torch.full((len(gallery),), -torch.inf, dtype=torch.float64)
    nearest = torch.zeros(len(gallery), dtype=torch.bool)
    for chunk in queries.split(max(1, CHUNK // len(gallery))):
        scores = chunk @ gallery.T
        nearest[scores.argmax(1)] = True
        mass = torch.logaddexp(mass, (scale * scores).logsumexp(0))
    return mass, nearest
