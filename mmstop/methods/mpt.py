"""MPT: a re-implementation without public code, unverified.

"MPT: Multi-grained Prompt Tuning for Text-Video Retrieval", ACM MM 2024,
https://openreview.net/forum?id=sIwZ6TIn0P. The number of parameters that STOP's paper
prints for MPT is that of DGL and four more tokens per block. MPT's abstract names
spatial, temporal and global prompts, so these tokens are temporal prompts here: in
every block, they read the CLS of all frames, and then all tokens see them. This
mechanism is a guess. The abstract's word and phrase prompts are DGL's text prompts
here.
"""

import torch
from torch import Tensor

from mmstop.errors import typed
from mmstop.registry import MODELS

from .dgl import DGLCLIPViT
from .prompt_tower import at_least_one, learned

__all__ = ['MPTCLIPViT']


@MODELS.register_module()
class MPTCLIPViT(DGLCLIPViT):
    """Add temporal prompts to every block of DGL; unverified.

    (B, 3, T, H, W) -> (B, E).

    Args:
        num_temporal: temporal prompts per block.
        clip, prompter, num_prompts, num_global, num_frames: those of
            :class:`DGLCLIPViT`.

    Raises:
        ConfigError: those of :class:`DGLCLIPViT`.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        prompter: str = 'linear',
        num_prompts: int = 4,
        num_global: int = 4,
        num_frames: int = 12,
        num_temporal: int = 4,
    ) -> None:
        at_least_one(num_temporal=num_temporal)
        super().__init__(clip, prompter, num_prompts, num_global, num_frames)
        self.temporal = learned(self.depth, num_temporal, self.width)

    def seen_by_all(self, i: int, across: Tensor, x: Tensor) -> Tensor:
        """Return the global prompts and what the temporal ones read from the CLS."""
        temporal = self.temporal[i].expand(x.shape[0], 1, -1, -1).to(x.dtype)
        cls = self.read(x).transpose(1, 2)  # (B, 1, T, D)
        context = torch.cat([temporal, cls], dim=2)
        temporal = temporal + self._branch(self.attend, i, temporal, context)
        return torch.cat([across, temporal], dim=2)
