"""CLIP's text tower."""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError
from mmstop.registry import MODELS

from .clip import CLIPTower

__all__ = ['CLIPText']


@MODELS.register_module()
class CLIPText(CLIPTower):
    """CLIP's text tower: (B, L) token ids -> (B, E), with L up to the context length.

    ``logit_scale`` is the logarithm of CLIP's learned inverse temperature, Eq. 14.
    """

    causal = True

    def _take(self, clip: Any) -> None:
        self.transformer: Any = clip.transformer
        self.token_embedding: nn.Embedding = clip.token_embedding
        self.positional_embedding: nn.Parameter = clip.positional_embedding
        self.ln_final: nn.LayerNorm = clip.ln_final
        self.text_projection: nn.Parameter = clip.text_projection
        self.logit_scale: nn.Parameter = clip.logit_scale
        self.tokenizer = open_clip.get_tokenizer(self.arch)

    @property
    def blocks(self) -> Any:
        return self.transformer.resblocks

    @property
    def final_norm(self) -> nn.LayerNorm:
        return self.ln_final

    @property
    def projection(self) -> nn.Parameter:
        return self.text_projection

    @property
    def context_length(self) -> int:
        """The maximum number of tokens in a text."""
        return self.positional_embedding.shape[0]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokenise to the length of the longest text: K texts -> (K, L), int64.

        Attention is causal and the embedding is read at the end token, so padding after
        the longest text would change nothing and is left out.

        Raises:
            ValueError: a text has more tokens than the tower has positions.
        """
        ids = [self.tokenizer.encode(text) for text in texts]
        room = self.context_length - 2  # start and end of text
        for text, tokens in zip(texts, ids):
            if len(tokens) > room:
                raise ConfigError(
                    f'{text!r} has {len(tokens)} tokens, {self.arch} has room for '
                    f'{room}; shorten the text or its template'
                )
        length = max(len(tokens) for tokens in ids) + 2
        return self.tokenizer(list(texts), context_length=length)

    def look_up(self, inputs: Tensor) -> Tensor:
        return self.token_embedding(inputs)

    def place(self, x: Tensor) -> Tensor:
        return x + self.positional_embedding[: x.shape[1]]

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Read the projected end token: (B, L, D) -> (B, E), not normalised."""
        # The end token has the largest id of CLIP's vocabulary.
        end = inputs.argmax(dim=-1)
        # Not len(x), which ONNX export would turn into a constant.
        return self.project(x[torch.arange(x.shape[0], device=x.device), end])
