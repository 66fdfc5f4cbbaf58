"""The loss of text-video retrieval, over the batches of all processes."""

import hashlib
from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank, get_world_size
from torch import Tensor

from mmstop.towers import at_least_float32

__all__ = ['contrastive_loss', 'video_ids']


def contrastive_loss(
    video: Tensor, text: Tensor, scale: Tensor, video_ids: Tensor
) -> Tensor:
    """Compute the symmetric InfoNCE loss over the batches of all processes (Eq. 15).

    Every process gets the loss of the global batch. The gather sums the gradients that
    the processes send back, and data-parallel training averages the parameters'
    gradients. Together, this gives the gradients of the global batch.

    Args:
        video: (B, E), with the same B in every process.
        text: (B, E), the i-th text describes the i-th video.
        scale: inverse temperature, scalar.
        video_ids: (B,) int64. Entries with the same non-zero number are the same video
            and not negatives of each other.
    """
    with torch.autocast(video.device.type, enabled=False):
        video, text = _Gather.apply(_unit(video)), _Gather.apply(_unit(text))
        ids = torch.cat(all_gather(video_ids))
        logits = scale.to(text) * text @ video.T  # (texts, videos)
        same = (ids[:, None] == ids) & (ids != 0)
        logits = logits.masked_fill(same.fill_diagonal_(False), -torch.inf)
        target = torch.arange(len(logits), device=logits.device)
        t2v, v2t = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
        return (t2v + v2t) / 2


def _unit(x: Tensor) -> Tensor:
    """Normalise to unit norm, in at least float32."""
    return F.normalize(at_least_float32(x), dim=-1)


class _Gather(torch.autograd.Function):
    """Gather the rows of all processes; in backward, sum the gradients of each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.cat(all_gather(x.contiguous()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        if get_world_size() > 1:
            torch.distributed.all_reduce(grad)
        return grad.chunk(get_world_size())[get_rank()]


def video_ids(samples: Optional[Sequence[Any]], B: int) -> Tensor:
    """Map video names to numbers equal in all processes: (B,) int64, 0 for no name."""
    names = [None] * B if samples is None else [s.get('video_id') for s in samples]
    return torch.tensor([0 if name is None else _number(name) for name in names])


def _number(name: Any) -> int:
    digest = hashlib.blake2b(str(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big', signed=True)
