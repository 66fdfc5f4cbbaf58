"""Efficient Prompt: a temporal transformer on frozen frames, prompts around the words.

"Prompting Visual-Language Models for Efficient Video Understanding", ECCV 2022,
https://arxiv.org/abs/2112.04478. Three readings of ours are uncertain:

- The frames' features enter the transformer as CLIP projects them, not normalised.
- The transformer starts with PyTorch's initialisation.
- A text prompt belongs to a place in the sequence. This explains why 77 vectors, one
  for each place, are trained although a text uses 32.
"""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower

from .prompt_tower import at_least_one, pre_norm_block, slots

__all__ = ['EfficientPromptCLIPText', 'EfficientPromptCLIPViT']

INIT_STD = 0.01


@MODELS.register_module()
class EfficientPromptCLIPViT(TunedTower):
    """Let the embeddings of a frozen CLIP's frames attend to one another.

    (B, 3, T, H, W) -> (B, E): every frame's projected CLS and its learned position pass
    a small transformer, whose outputs are averaged. No gradient enters the wrapped
    tower.

    Args:
        clip: config of the video tower.
        num_layers: blocks of the transformer.
        num_frames: number of positions. Another number of frames takes them evenly from
            these.

    Raises:
        ConfigError: a number is less than 1, or the wrapped tower has parameters to
            train.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        num_layers: int = 2,
        num_frames: int = 12,
    ) -> None:
        at_least_one(num_layers=num_layers, num_frames=num_frames)
        super().__init__(clip)
        for name, parameter in self.clip.named_parameters():
            if parameter.requires_grad:
                raise ConfigError(
                    f'clip.{name} is trainable, but {type(self).__name__} passes no '
                    f'gradient to clip; use a frozen CLIPViT'
                )
        places = torch.empty(num_frames, self.out_dim)
        self.places = nn.Parameter(nn.init.normal_(places, std=INIT_STD))
        self.temporal = nn.Sequential(
            *(pre_norm_block(self.out_dim) for _ in range(num_layers))
        )

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E), not normalised."""
        with torch.no_grad():
            cls = self.encode(self.embed(video))  # (B, T, 1, D)
            frames = self.project(cls.flatten(1, 2))  # (B, T, E)
        places = self.places[slots(frames.shape[1], len(self.places))]
        return self.temporal(frames + places).mean(dim=1)


@MODELS.register_module()
class EfficientPromptCLIPText(TunedTower):
    """Put learned vectors among the token embeddings of a frozen text tower.

    (B, L) token ids -> (B, E). Of the sequence [start, P prompts, words, P prompts,
    end], each prompt is the learned vector of its place. Prompts have positions and
    pass all blocks as the words do, and the end token moves by 2 P.

    Args:
        clip: config of the text tower.
        num_prompts: P, prompts before the words and behind them.

    Raises:
        ConfigError: ``num_prompts`` is less than 1 or leaves no room for words; or, in
            ``tokenize`` and ``forward``, a text does not fit beside the prompts.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights='openai'),
        num_prompts: int = 16,
    ) -> None:
        at_least_one(num_prompts=num_prompts)
        super().__init__(clip)
        self.num_prompts = num_prompts
        if self.context_length < 3:
            raise ConfigError(
                f'num_prompts={num_prompts} before the words and behind them leave no '
                f'room for words in the {self.clip.context_length} places of '
                f'{self.arch}; set a smaller number'
            )
        vectors = torch.empty(self.clip.context_length, self.width)
        self.vectors = nn.Parameter(nn.init.normal_(vectors, std=INIT_STD))

    @property
    def context_length(self) -> int:
        """The maximum number of tokens in a text, besides the prompts."""
        return self.clip.context_length - 2 * self.num_prompts

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokenise as :class:`CLIPText` and check the room: K texts -> (K, L)."""
        ids = super().tokenize(texts)
        if ids.shape[1] > self.context_length:  # as long as the longest text
            self._check(ids, texts)
        return ids

    def look_up(self, inputs: Tensor) -> Tensor:
        """Return words and prompts without positions: (B, L) -> (B, L + 2 P, D)."""
        moved, prompts = self._make_room(inputs)
        vectors = self.vectors[: moved.shape[1]]
        return torch.where(prompts.unsqueeze(-1), vectors, super().look_up(moved))

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Read the projected end token at its new place."""
        return super().pool(x, self._make_room(inputs)[0])

    def _make_room(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Move the tokens to make room for prompts.

        (B, L) -> ids with zeros in place of the prompts and bool, True there, both
        (B, min(L + 2 P, context length)). Padding that does not fit is left out.
        """
        P, B = self.num_prompts, inputs.shape[0]
        L = inputs.shape[1] + 2 * P
        if L > self.clip.context_length:
            self._check(inputs)
            L = self.clip.context_length
        place = torch.arange(L, device=inputs.device).expand(B, -1)
        end = inputs.argmax(dim=-1, keepdim=True)
        before = (place > 0) & (place <= P)
        behind = (place >= end + P) & (place < end + 2 * P)
        moved = place - P * (place > 0) - P * (place >= end + 2 * P)
        ids = inputs.gather(1, moved.clamp(0, inputs.shape[1] - 1))
        prompts = before | behind
        return ids.masked_fill(prompts, 0), prompts

    def _check(self, inputs: Tensor, texts: Optional[Sequence[str]] = None) -> None:
        ends = inputs.argmax(dim=-1)
        longest = int(ends.max()) + 1
        if longest > self.context_length:
            which = 'a text' if texts is None else repr(texts[int(ends.argmax())])
            raise ConfigError(
                f'{which} has {longest} tokens, {2 * self.num_prompts} prompts leave '
                f'{self.arch} room for {self.context_length}; shorten the text, or set '
                f'max_tokens in the pipelines or a smaller num_prompts'
            )
