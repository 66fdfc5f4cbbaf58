"""STOP's layout of tokens and prompts for a block, for both attention scopes."""

from dataclasses import dataclass, replace
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mmstop.towers.merging import take

__all__ = [
    'Prompted',
    'frame_sequences',
    'frames_of',
    'joint_sequence',
    'protect',
    'without_prompts',
]


@dataclass
class Prompted:
    """A block's tokens with the spatial prompts added, and its temporal prompts."""

    cls: Tensor  # (B, T, 1, D)
    patches: Tensor  # (B, T, N, D), or (B, T, N - P, D) without the protected ones
    prompts: Tensor  # (B, T - 1, eta, D), of which a gap uses the first N^t
    num_prompts: Tensor  # N^t, (B, T - 1), int64
    protected: Optional[Tensor] = None  # (B, T, P, D), patches that must not merge
    order: Optional[Tensor] = None  # original indices, protected first, (B, T, N)
    span: int = 1  # neighbouring frames whose patches may merge with each other


def protect(x: Prompted, region: Tensor, num_spatial: int) -> Prompted:
    """Separate the patches of the region r (Eq. 6) from those that may merge."""
    order = (~region).int().argsort(dim=-1, stable=True)
    sizes = [num_spatial, order.shape[2] - num_spatial]
    protected, patches = take(x.patches, order).split(sizes, dim=2)
    return replace(x, protected=protected, patches=patches, order=order)


def joint_sequence(x: Prompted) -> tuple[Tensor, Optional[Tensor]]:
    """Join all frames and prompts: tokens (B, 1, L, D) and their mask, or None.

    Attention ignores order and prompts carry no position, so all prompts of a video
    follow CLS, where videos with fewer prompts are padded.
    """
    patches = [part.flatten(1, 2) for part in _parts(x)[:-1]]
    patches.append(_weave(x.patches, x.span))
    if 0 in x.prompts.shape[1:3] and not torch.is_grad_enabled():
        # ONNX cannot flatten an empty tensor. Training can, and must go this way for
        # the prompter to get a gradient.
        return torch.cat([x.cls[:, 0], *patches], dim=1)[:, None], None
    prompts, kept = _pack(x.prompts.flatten(1, 2), _used(x).flatten(1))
    tokens = torch.cat([x.cls[:, 0], prompts, *patches], dim=1)
    mask = _key_mask(kept, x.cls.shape[2], tokens.shape[1])
    return tokens[:, None], None if mask is None else mask[:, None]


def frame_sequences(x: Prompted) -> tuple[Tensor, Optional[Tensor]]:
    """Give each frame the prompts of the gap before it: (B, T, L, D) and its mask."""
    keep = F.pad(_used(x), (0, 0, 1, 0))  # no gap before the first frame
    prompts, kept = _pack(F.pad(x.prompts, (0, 0, 0, 0, 1, 0)), keep)
    tokens = torch.cat([x.cls, prompts, *_parts(x)], dim=2)
    return tokens, _key_mask(kept, x.cls.shape[2], tokens.shape[2])


def without_prompts(tokens: Tensor, num_prefix: int, num_patches: int) -> Tensor:
    """Keep CLS and the last ``num_patches`` tokens of a sequence (..., L, D)."""
    if tokens.shape[-2] == num_prefix + num_patches:
        return tokens
    ends = [tokens[..., :num_prefix, :], tokens[..., -num_patches:, :]]
    return torch.cat(ends, dim=-2)


def frames_of(x: Tensor, made: Prompted) -> Tensor:
    """Undo the layout of a sequence without prompts: (B, S, L, D) -> (B, T, 1 + N, D).

    In joint attention, each frame gets a copy of the one CLS token.
    """
    T, n = made.patches.shape[1:3]
    prefix = made.cls.shape[2]
    cls, patches = x[..., :prefix, :], x[..., prefix:, :]
    if made.protected is None or made.order is None:
        patches = _unweave(patches.flatten(1, 2), T, made.span)
    else:
        P, frames = made.protected.shape[2], T // x.shape[1]
        safe, free = patches.split([frames * P, frames * n], dim=-2)
        safe = safe.flatten(1, 2).unflatten(1, (T, P))
        free = _unweave(free.flatten(1, 2), T, made.span)
        patches = torch.cat([safe, free], dim=2)
        patches = take(patches, made.order.argsort(dim=-1))
    return torch.cat([cls.expand(-1, T, -1, -1), patches], dim=2)


def _parts(x: Prompted) -> list[Tensor]:
    return [x.patches] if x.protected is None else [x.protected, x.patches]


def _weave(x: Tensor, span: int) -> Tensor:
    """Put the same places of ``span`` frames side by side: (B, T, n, D) -> (B, T n, D).

    Of two neighbours, merging may put one into the other, so that what stands still can
    merge over time.
    """
    return x.unflatten(1, (-1, span)).transpose(2, 3).flatten(1, 3)


def _unweave(x: Tensor, T: int, span: int) -> Tensor:
    """Undo :func:`_weave`: (B, T n, D) -> (B, T, n, D), where n may be 0."""
    n = x.shape[1] // T
    return x.unflatten(1, (T // span, n, span)).transpose(2, 3).flatten(1, 2)


def _used(x: Prompted) -> Tensor:
    """Mark the slots that hold one of a gap's N^t prompts: (B, T - 1, eta), bool."""
    slots = torch.arange(x.prompts.shape[2], device=x.prompts.device)
    return slots < x.num_prompts[..., None]


def _pack(prompts: Tensor, keep: Tensor) -> tuple[Tensor, Optional[Tensor]]:
    """Move the used prompts to the front and cut the slots that no sequence needs.

    (..., P, D) and (..., P), bool -> (..., P', D) and (..., P') with P' <= P, or None
    if no sequence has padding. The number of prompts decides the shape, so the host
    waits for the device here, once for a block.
    """
    if torch.compiler.is_compiling():  # shapes must not depend on values then
        return prompts, keep
    shortest = longest = 0
    if keep.shape[-1]:
        counts = keep.sum(-1)
        shortest, longest = torch.stack([counts.amin(), counts.amax()]).tolist()
    order = keep.int().argsort(dim=-1, descending=True, stable=True)[..., :longest]
    keep = keep.gather(-1, order)
    return take(prompts, order), None if shortest == longest else keep


def _key_mask(keep: Optional[Tensor], prefix: int, length: int) -> Optional[Tensor]:
    """Mask the padding after CLS: (..., P) bool or None -> (..., 1, L) or None."""
    if keep is None:
        return None
    after = length - prefix - keep.shape[-1]
    mask = F.pad(keep, (prefix, after), value=True)
    return mask.unsqueeze(-2)
