"""AIM: a frozen attention used twice, over time and over space, with adapters.

"AIM: Adapting Image Models for Efficient Video Action Recognition", ICLR 2023,
https://arxiv.org/abs/2302.03024. A block with the frozen branches attn and mlp computes

    x += T_out(attn(T_in(ln_1 x)))      over the frames, each token by itself
    x += S(attn(ln_1 x))                over the tokens of a frame
    x += mlp(ln_2 x) + s M(ln_2 x)

All four adapters are bottlenecks of a quarter of the width with GELU. S and T_in have a
skip around them, T_out and M have none. The method starts as the frozen tower.
"""

from typing import Optional

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower

from .adapters import Bottleneck, per_block
from .prompt_tower import at_least_one, interpolated
from .st_adapter import patches_per_frame, refuse_merging

__all__ = ['AIMCLIPViT']


@MODELS.register_module()
class AIMCLIPViT(TunedTower):
    """Adapt a frozen CLIP to video with attention over time and three adapters a block.

    (B, 3, T, H, W) -> (B, E). Prompts of a method around this one take no part in the
    attention over time.

    Args:
        clip: config of the video tower.
        num_frames: frames for which the temporal embedding is learned; for another
            number of frames it is interpolated.
        temporal_in: whether T_in exists. The paper has it on Something-Something V2.
        scale: factor s of M.
        drop_path: probability that a video goes without the outputs of T_out or of M
            in a training step, in [0, 1).

    Raises:
        ValueError: an argument is out of range, the tower inside merges patches; or,
            in ``forward``, several frames share a sequence.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        num_frames: int = 8,
        temporal_in: bool = False,
        scale: float = 1.0,
        drop_path: float = 0.2,
    ) -> None:
        at_least_one(num_frames=num_frames)
        if not 0 <= drop_path < 1:
            raise ConfigError(f'drop_path={drop_path} is outside [0, 1)')
        super().__init__(clip)
        refuse_merging(self)
        self.scale = scale
        self.drop_path = DropPath(drop_path)
        self.positions = nn.Parameter(torch.zeros(num_frames, self.width))

        def adapters() -> nn.ModuleList:
            return per_block(self, lambda: Bottleneck(self.width, hidden, nn.GELU))

        hidden = self.width // 4
        self.temporal_in = adapters() if temporal_in else None
        self.temporal_out, self.spatial, self.mlp = adapters(), adapters(), adapters()

    def place(self, x: Tensor) -> Tensor:
        """Add the positions of patches and frames, and apply the first LayerNorm."""
        frames = interpolated(self.positions, x.shape[1])
        return super().place(x + frames.unsqueeze(1).to(x))

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Attend over time, then over space: the sum of both updates, (B, T, L, D)."""
        seen = x if context is None else context
        over_time = self._attend_over_time(i, seen)
        context = None
        if seen is not x:
            # The queries are CLS and the last tokens of the context, or CLS alone.
            context, prefix = seen + over_time, self.num_prefix
            first = seen.shape[-2] - (x.shape[-2] - prefix)
            ends = [over_time[..., :prefix, :], over_time[..., first:, :]]
            over_time = torch.cat(ends, dim=-2)
        attended = super().attend(i, x + over_time, context, mask)
        return over_time + attended + self.spatial[i](attended)

    def _attend_over_time(self, i: int, x: Tensor) -> Tensor:
        """Let CLS and patches see themselves in other frames: (B, T, L, D)."""
        prefix, L = self.num_prefix, x.shape[-2]
        first_patch = L - patches_per_frame(self, x)
        own = torch.cat([x[..., :prefix, :], x[..., first_patch:, :]], dim=-2)
        own = self.normalize(i, own).transpose(-3, -2)  # (B, 1 + N, T, D)
        if self.temporal_in is not None:
            own = own + self.temporal_in[i](own)
        own = self.temporal_out[i](self.attend_normalized(i, own)).transpose(-3, -2)
        own = self.drop_path(own)
        if first_patch == prefix:
            return own
        prompts = x.new_zeros(*x.shape[:-2], first_patch - prefix, x.shape[-1])
        return torch.cat([own[..., :prefix, :], prompts, own[..., prefix:, :]], dim=-2)

    def feed(self, i: int, x: Tensor) -> Tensor:
        update = self.mlp[i](self.normalize_mlp(i, x))
        return super().feed(i, x) + self.drop_path(self.scale * update)
