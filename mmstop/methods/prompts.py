"""Static deep prompts, a baseline of the paper: the same tokens for every video.

This is the deep variant of "Visual Prompt Tuning", ECCV 2022,
https://arxiv.org/abs/2203.12119: every block has its own prompts, and the block's
outputs at their positions are dropped.
"""

import math
from typing import Optional

import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower

__all__ = ['DeepPromptCLIPViT']


@MODELS.register_module()
class DeepPromptCLIPViT(TunedTower):
    """Let every block of a frozen CLIP attend to a few learned tokens.

    (B, 3, T, H, W) -> (B, E). Each frame is encoded separately, and the wrapped tower
    averages over frames. The outputs at the prompts' positions are dropped, so prompts
    serve only as keys and values.

    Args:
        clip: config of the video tower.
        num_prompts: number of learned tokens per block, at least 1.

    Raises:
        ValueError: ``num_prompts`` is less than 1.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        num_prompts: int = 8,
    ) -> None:
        if num_prompts < 1:
            raise ConfigError(
                f'num_prompts={num_prompts} leaves nothing to train; set at least 1, '
                f"or type='CLIPViT' for frozen CLIP"
            )
        super().__init__(clip)
        rows, columns = self.image_size
        patch = rows // self.grid[0] * (columns // self.grid[1])  # in pixels
        bound = math.sqrt(6 / (3 * patch + self.width))  # Xavier's for the patches
        prompts = torch.empty(self.depth, num_prompts, self.width)
        self.prompts = nn.Parameter(nn.init.uniform_(prompts, -bound, bound))

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        context = x if context is None else context
        prompts = self.prompts[i].expand(*context.shape[:-2], -1, -1).to(context.dtype)
        n = self.num_prefix
        context = torch.cat([context[..., :n, :], prompts, context[..., n:, :]], dim=-2)
        if mask is not None:  # every query sees the prompts
            seen = torch.ones if mask.dtype == torch.bool else torch.zeros
            shown = seen(*mask.shape[:-1], len(self.prompts[i])).to(mask)
            mask = torch.cat([mask[..., :n], shown, mask[..., n:]], dim=-1)
        return super().attend(i, x, context, mask)
