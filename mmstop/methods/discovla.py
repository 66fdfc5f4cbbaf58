"""DiscoVLA's alignment: CLS that sees all frames, and small bottlenecks beside it.

"DiscoVLA: Discrepancy Reduction in Vision, Language, and Alignment for
Parameter-Efficient Video-Text Retrieval", CVPR 2025, https://arxiv.org/abs/2506.08887.
Both towers have LoRA of rank 8 on queries, keys and values, which is the towers' own
option, ``clip=dict(lora=dict(rank=8), ...)``.

This is the paper's row without its other losses, which need a pseudo caption of every
frame. Where the two bottlenecks of the text tower stand is our own choice.
"""

from typing import Optional

import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from mmstop.errors import typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower

from .adapters import Bottleneck
from .prompt_tower import at_least_one

__all__ = ['DiscoVLACLIPText', 'DiscoVLACLIPViT']


class DiscoVLATower(TunedTower):
    """Base class of both: a bottleneck behind the attention of each of the last blocks.

    Args:
        clip: config of the tower.
        blocks: number of blocks with a bottleneck, at least 1; at most all have one.
        hidden: inner width of a bottleneck.

    Raises:
        ValueError: ``blocks`` or ``hidden`` is less than 1.
    """

    def __init__(self, clip: dict, blocks: int, hidden: int) -> None:
        at_least_one(blocks=blocks, hidden=hidden)
        super().__init__(clip)
        self.bottlenecks = nn.ModuleDict(
            {
                str(i): Bottleneck(self.width, hidden, QuickGELU)
                for i in range(max(0, self.depth - blocks), self.depth)
            }
        )


@MODELS.register_module()
class DiscoVLACLIPViT(DiscoVLATower):
    """Let CLS of each frame attend to all frames in the last blocks.

    (B, 3, T, H, W) -> (B, E). CLS gets what it attends to in all frames, plus a
    bottleneck of what it attends to in its own; the bottleneck starts at zero. Patches
    attend to their own frame.

    Args:
        clip: config of the video tower, which should have LoRA.
        blocks, hidden: see :class:`DiscoVLATower`.

    Raises:
        ValueError: see :class:`DiscoVLATower`.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(
            type='CLIPViT',
            arch='ViT-B-32-quickgelu',
            weights='openai',
            lora=dict(rank=8),
        ),
        blocks: int = 4,
        hidden: int = 8,
    ) -> None:
        super().__init__(clip, blocks, hidden)

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        out = super().attend(i, x, context, mask)
        if str(i) not in self.bottlenecks:
            return out
        context, n = x if context is None else context, self.num_prefix
        B, T, M = context.shape[:3]
        if mask is not None:
            mask = mask.expand(B, T, -1, M)[:, :, :1]  # (B, T, 1, M), as CLS sees it
            mask = mask.transpose(1, 2).reshape(B, 1, 1, T * M)
        cls = x[:, :, :n].reshape(B, 1, T * n, -1)
        video = super().attend(i, cls, context.reshape(B, 1, T * M, -1), mask)
        frame = self.bottlenecks[str(i)](out[:, :, :n])
        return torch.cat([video.view_as(frame) + frame, out[:, :, n:]], dim=2)


@MODELS.register_module()
class DiscoVLACLIPText(DiscoVLATower):
    """Add a bottleneck behind the attention of the last blocks: (B, L) -> (B, E).

    Args:
        clip: config of the text tower, which should have LoRA.
        blocks, hidden: see :class:`DiscoVLATower`.

    Raises:
        ValueError: see :class:`DiscoVLATower`.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(
            type='CLIPText',
            arch='ViT-B-32-quickgelu',
            weights='openai',
            lora=dict(rank=8),
        ),
        blocks: int = 2,
        hidden: int = 8,
    ) -> None:
        super().__init__(clip, blocks, hidden)

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        out = super().attend(i, x, context, mask)
        if str(i) in self.bottlenecks:
            out = out + self.bottlenecks[str(i)](out)
        return out
