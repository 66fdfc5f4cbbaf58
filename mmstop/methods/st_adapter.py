"""ST-Adapter: a convolution over time and space in a bottleneck.

"ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022,
https://arxiv.org/abs/2206.13559. STOP's tables have it in the video tower, beside a
plain bottleneck in the text tower (:class:`.HoulsbyAdapter`), as "Video-Text Adapter".
Their number of parameters is that of one adapter in every block, of width 384 and with
a kernel of 3 x 3 x 3.

Before the MLP, the adapter of the last block changes patches that nothing reads any
more: the embedding comes from CLS. It is kept, so that the numbers of parameters agree,
but not run. Its gradient is zero and not missing, which would stop data-parallel
training; only weight decay changes it.
"""

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import Tower, TunedTower

from .adapters import per_block

__all__ = ['STAdapter', 'patches_per_frame', 'refuse_merging']

PLACES = 'attention', 'mlp'


class SpaceTimeBottleneck(nn.Module):
    """A bottleneck with a depthwise convolution inside and no activation.

    The convolution and all biases start at zero, and so does the output.

    Args:
        width: D.
        hidden: the width between the two linear layers, at least 1.
        kernel: odd sizes over frames, rows and columns.
    """

    def __init__(self, width: int, hidden: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        frames, rows, columns = kernel
        self.conv: Any = nn.Conv3d(
            hidden,
            hidden,
            (frames, rows, columns),
            padding=(frames // 2, rows // 2, columns // 2),
            groups=hidden,
        )
        self.up = nn.Linear(hidden, width)
        for name, parameter in self.named_parameters():
            if name == 'conv.weight' or name.endswith('bias'):
                nn.init.zeros_(parameter)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, N, D) -> (B, T, N, D)."""
        x = self.down(patches).unflatten(2, grid)  # (B, T, rows, columns, hidden)
        x = self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        return self.up(x.flatten(2, 3))


@MODELS.register_module()
class STAdapter(TunedTower):
    """Let patches see their neighbours in space and time before a branch of each block.

    (B, 3, T, H, W) -> (B, E). Only patches pass through the adapters, not CLS or
    prompts. It starts as the tower inside.

    Args:
        clip: config of the video tower.
        hidden: width of the bottlenecks, at least 1.
        kernel: odd sizes of the convolution over frames, rows and columns.
        before: 'attention', 'mlp' or both: the branches that have an adapter before
            them. The paper has both for Something-Something V2.

    Raises:
        ValueError: an argument is out of range, the tower inside merges patches; or,
            in ``forward``, several frames share a sequence.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        hidden: int = 384,
        kernel: Sequence[int] = (3, 3, 3),
        before: Sequence[str] = ('mlp',),
    ) -> None:
        if hidden < 1:
            raise ConfigError(
                f'hidden={hidden} leaves nothing to train; set at least 1'
            )
        if len(kernel) != 3 or not all(k > 0 and k % 2 for k in kernel):
            raise ConfigError(
                f'kernel={kernel}, expected three odd sizes: frames, rows and columns'
            )
        if isinstance(before, str) or not before or not {*before} <= {*PLACES}:
            raise ConfigError(f'before={before!r}, expected some of {PLACES}')
        super().__init__(clip)
        refuse_merging(self)
        self.adapters: Any = nn.ModuleDict(
            {
                place: per_block(
                    self, lambda: SpaceTimeBottleneck(self.width, hidden, kernel)
                )
                for place in before
            }
        )

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        if 'attention' not in self.adapters:
            return super().attend(i, x, context, mask)
        seen = x if context is None else context
        update = self._update('attention', i, seen)
        # Queries are some of the context's tokens: all, all but prompts, or only CLS.
        shift = self._shift(update, x)
        if seen is not x:
            context = seen + self._shift(update, seen)
        else:
            context = None
        return shift + super().attend(i, x + shift, context, mask)

    def feed(self, i: int, x: Tensor) -> Tensor:
        if 'mlp' not in self.adapters:
            return super().feed(i, x)
        if x.shape[-2] == self.num_prefix:  # the last block, see above
            idle = sum(p.sum() for p in self.adapters['mlp'][i].parameters())
            return super().feed(i, x) + 0 * idle
        shift = self._shift(self._update('mlp', i, x), x)
        return shift + super().feed(i, x + shift)

    def _update(self, place: str, i: int, x: Tensor) -> Tensor:
        """Run an adapter on the patches of (B, T, L, D) -> (B, T, N, D)."""
        patches = x[..., -patches_per_frame(self, x) :, :]
        return self.adapters[place][i](patches, self.grid)

    def _shift(self, update: Tensor, x: Tensor) -> Tensor:
        """Give tokens that are no patches an update of zero: (B, T, L, D)."""
        if x.shape[-2] == self.num_prefix:
            return torch.zeros_like(x)
        return F.pad(update, (0, 0, x.shape[-2] - update.shape[-2], 0))


def patches_per_frame(method: Tower, x: Tensor) -> int:
    """Return N for tokens (B, T, L, D) whose last N are the patches of one frame.

    Raises:
        ConfigError: several frames share a sequence.
    """
    N = method.grid[0] * method.grid[1]
    if x.shape[-3] == 1 and x.shape[-2] >= method.num_prefix + 2 * N:
        raise ConfigError(
            f'{type(method).__name__} needs a sequence per frame, but the method '
            f"around it joins the frames; set attention='frame' there"
        )
    return N


def refuse_merging(method: Tower) -> None:
    """Refuse a tower whose frames do not keep their patches in a grid."""
    if method.merge:
        raise ConfigError(
            f'{type(method).__name__} needs all patches of a frame; remove '
            f'merge={method.merge} from the tower inside'
        )
