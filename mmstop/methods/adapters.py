"""Bottleneck adapters beside or behind a branch of every block, in either tower.

A bottleneck maps D to a few dimensions and back. Each class has one place for it:

- :class:`AdapterATTN` beside the attention: "Towards a Unified View of
  Parameter-Efficient Transfer Learning", ICLR 2022, https://arxiv.org/abs/2110.04366.
- :class:`AdapterFFN` beside the MLP: "AdaptFormer", NeurIPS 2022,
  https://arxiv.org/abs/2205.13535. It reads the residual stream, not its LayerNorm.
- :class:`HoulsbyAdapter` behind the MLP: "Parameter-Efficient Transfer Learning for
  NLP", ICML 2019, https://arxiv.org/abs/1902.00751, without its second adapter behind
  the attention. STOP's tables give a number of parameters for it in both towers, as
  "Visual-Text Adapter", which a single one of width 384 in every block matches.
"""

import math
from collections.abc import Callable
from typing import Optional

from torch import Tensor, nn

from mmstop.errors import ConfigError, check_range, typed
from mmstop.registry import MODELS
from mmstop.towers import Tower, TunedTower

__all__ = ['AdapterATTN', 'AdapterFFN', 'Bottleneck', 'HoulsbyAdapter', 'per_block']

HOULSBY_STD = 0.01  # of both weights, which are truncated at two of them


class Bottleneck(nn.Sequential):
    """Two linear layers with an activation between them: (..., D) -> (..., D).

    The second layer starts at zero, and so does the output.

    Args:
        width: D.
        hidden: the width between the layers, at least 1.
        activation: makes the module between them.
        dropout: probability that a hidden value is dropped in training.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        if hidden < 1:
            raise ConfigError(
                f'hidden={hidden} leaves nothing to train; set at least 1'
            )
        down, up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for start_at_zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(start_at_zero)
        super().__init__(down, activation(), nn.Dropout(dropout), up)


def per_block(tower: Tower, make: Callable[[], nn.Module]) -> nn.ModuleList:
    """Make a module for every block of a tower."""
    return nn.ModuleList(make() for _ in range(tower.depth))


@MODELS.register_module()
class AdapterATTN(TunedTower):
    """Add a bottleneck beside the attention of every block, behind the same LayerNorm.

    (B, 3, T, H, W) or (B, L) -> (B, E), as the tower inside. It starts as that tower.

    Args:
        clip: config of a video or text tower.
        hidden: width of the bottlenecks, at least 1.
        scale: factor s of their output.

    Raises:
        ValueError: ``hidden`` is less than 1.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        hidden: int = 64,
        scale: float = 1.0,
    ) -> None:
        super().__init__(clip)
        self.scale = scale
        self.adapters = per_block(self, lambda: Bottleneck(self.width, hidden))

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        update = self.adapters[i](self.normalize(i, x))
        return super().attend(i, x, context, mask) + self.scale * update

    def attend_normalized(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        update = self.adapters[i](x)
        return super().attend_normalized(i, x, context, mask) + self.scale * update


@MODELS.register_module()
class AdapterFFN(TunedTower):
    """Add a bottleneck beside the MLP of every block, before the MLP's LayerNorm.

    (B, 3, T, H, W) or (B, L) -> (B, E), as the tower inside. It starts as that tower.

    Args:
        clip: config of a video or text tower.
        hidden: width of the bottlenecks, at least 1.
        scale: factor s of their output.
        dropout: probability that a hidden value is dropped in training, in [0, 1].

    Raises:
        ValueError: ``hidden`` is less than 1, or ``dropout`` is outside [0, 1].
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        hidden: int = 64,
        scale: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        check_range('dropout', dropout, 0, 1)
        super().__init__(clip)
        self.scale = scale
        self.adapters = per_block(
            self, lambda: Bottleneck(self.width, hidden, dropout=dropout)
        )

    def feed(self, i: int, x: Tensor) -> Tensor:
        return super().feed(i, x) + self.scale * self.adapters[i](x)


@MODELS.register_module()
class HoulsbyAdapter(TunedTower):
    """Add a bottleneck behind the MLP of every block, around which its output skips.

    (B, 3, T, H, W) or (B, L) -> (B, E), as the tower inside. It starts close to that
    tower, with the small random weights of its paper.

    Args:
        clip: config of a video or text tower.
        hidden: width of the bottlenecks, at least 1.

    Raises:
        ValueError: ``hidden`` is less than 1.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        hidden: int = 384,
    ) -> None:
        super().__init__(clip)
        self.adapters = per_block(self, lambda: Bottleneck(self.width, hidden))
        for name, weight in self.adapters.named_parameters():
            if name.endswith('weight'):
                a, b = -2 * HOULSBY_STD, 2 * HOULSBY_STD
                nn.init.trunc_normal_(weight, std=HOULSBY_STD, a=a, b=b)

    def feed(self, i: int, x: Tensor) -> Tensor:
        x = super().feed(i, x)
        return x + self.adapters[i](x)
