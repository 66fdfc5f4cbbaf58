"""The base class of the methods: a tower around a tower."""

from collections.abc import Sequence
from typing import Any, Optional

from torch import Tensor, nn

from mmstop.errors import ConfigError
from mmstop.registry import MODELS

from .base import Tower

__all__ = ['TunedTower']


class TunedTower(Tower):
    """A tower that wraps another and delegates whatever it does not override.

    Args:
        clip: config of the wrapped tower, e.g. ``dict(type='CLIPViT', ...)``. The
            wrapped tower may itself be a method that overrides steps.

    Raises:
        ConfigError: the wrapped tower has a ``forward`` of its own, which nothing runs.
    """

    def __init__(self, clip: dict) -> None:
        super().__init__()
        self.clip: Any = MODELS.build(clip)
        inner = type(self.clip)
        if inner.forward is not Tower.forward:
            raise ConfigError(
                f'{inner.__name__} has a forward pass of its own, which '
                f'{type(self).__name__} around it would not run; put '
                f"{type(self).__name__} inside: dict(type='{inner.__name__}', "
                f"clip=dict(type='{type(self).__name__}', ...))"
            )

    @property
    def width(self) -> int:
        return self.clip.width

    @property
    def depth(self) -> int:
        return self.clip.depth

    @property
    def out_dim(self) -> int:
        return self.clip.out_dim

    @property
    def grid(self) -> tuple[int, int]:
        return self.clip.grid

    @property
    def merge(self) -> int:
        return self.clip.merge

    @property
    def checkpoint(self) -> bool:
        return self.clip.checkpoint

    @property
    def image_size(self) -> tuple[int, int]:
        return self.clip.image_size

    @property
    def text_size(self) -> tuple[int, int]:
        return self.clip.text_size

    def look_up(self, inputs: Tensor) -> Tensor:
        return self.clip.look_up(inputs)

    def place(self, x: Tensor) -> Tensor:
        return self.clip.place(x)

    def text_prompts(self) -> Optional[Tensor]:
        return self.clip.text_prompts()

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        return self.clip.attend(i, x, context, mask)

    def attend_normalized(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        return self.clip.attend_normalized(i, x, context, mask)

    def normalize(self, i: int, x: Tensor) -> Tensor:
        return self.clip.normalize(i, x)

    def mean_keys(self, i: int, x: Tensor) -> Tensor:
        return self.clip.mean_keys(i, x)

    def feed(self, i: int, x: Tensor) -> Tensor:
        return self.clip.feed(i, x)

    def normalize_mlp(self, i: int, x: Tensor) -> Tensor:
        return self.clip.normalize_mlp(i, x)

    def read(self, x: Tensor) -> Tensor:
        return self.clip.read(x)

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        return self.clip.pool(x, inputs)

    def project(self, x: Tensor) -> Tensor:
        return self.clip.project(x)

    def cls_attention(self, i: int, x: Tensor) -> Tensor:
        return self.clip.cls_attention(i, x)

    # --- Text towers only -------------------------------------------------------------

    @property
    def arch(self) -> str:
        return self.clip.arch

    @property
    def logit_scale(self) -> nn.Parameter:
        return self.clip.logit_scale

    @property
    def context_length(self) -> int:
        """The maximum number of tokens in a text."""
        return self.clip.context_length

    @property
    def tokenizer(self) -> Any:
        return self.clip.tokenizer

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self.clip.tokenize(texts)
