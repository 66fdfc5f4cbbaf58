"""How the last block's CLS, which becomes the embedding, attends to the patches."""

from typing import Any

import torch
from torch import Tensor

from mmstop.towers import Tower, TunedTower

__all__ = ['cls_attention_map', 'innermost']


@torch.no_grad()
def cls_attention_map(tower: Tower, video: Tensor) -> Tensor:
    """Run a video tower and return the attention of its last CLS to the patches.

    (B, 3, T, H, W) -> (B, T, N). The weights come from the last block's softmax over
    all of its tokens, averaged over heads. The weights of CLS and prompts are left out.
    The rest is divided by its mean over all patches that this CLS sees, so uniform
    attention gives every patch 1. If every frame has its own CLS, each frame averages
    to 1. If one CLS sees all frames, only the video averages to 1, and frames can be
    compared.

    Args:
        tower: a video tower of any method.
        video: normalised clips.

    Raises:
        ValueError: the tower merges patches, so single patches have no weight.
    """
    inner = innermost(tower)
    if inner.merge:
        raise ValueError(
            f'the tower merges patches (merge={inner.merge}), so that single patches '
            f'have no attention; set merge=0 in the config of {type(inner).__name__}'
        )
    seen: list[Tensor] = []
    hook = inner.softmax.register_forward_hook(lambda *call: seen.append(call[-1]))
    try:
        tower(video)
    finally:
        hook.remove()
    weights = seen[-1].mean(-2)  # over heads: (B, S, L), S sequences
    B, S, T = *weights.shape[:2], video.shape[2]
    N = inner.grid[0] * inner.grid[1]
    patches = weights[..., -(T // S) * N :]
    return (patches / patches.mean(-1, keepdim=True)).reshape(B, T, N)


def innermost(tower: Tower) -> Any:
    """Return the CLIP tower inside all method wrappers."""
    while isinstance(tower, TunedTower):
        tower = tower.clip
    return tower
