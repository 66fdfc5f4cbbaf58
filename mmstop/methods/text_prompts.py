"""Prompts for the text tower, its own or made by the video tower.

The text side of several methods: "VoP: Text-Video Co-operative Prompt Tuning for
Cross-Modal Retrieval", CVPR 2023, https://arxiv.org/abs/2211.12764, has prompts of its
own in every block; UPT and DGL make them together with those of the video tower.
"""

from typing import Optional

import torch
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower

__all__ = ['PromptedCLIPText']

INIT_STD = 0.02


@MODELS.register_module()
class PromptedCLIPText(TunedTower):
    """Let every block of a frozen text tower attend to prompts around the words.

    (B, L) token ids -> (B, E). The first half of a block's prompts stands between the
    start of text and the words, the second half between the words and the end of text.
    Attention stays causal: words see the first half, the end token sees both. The
    prompts have no positions, and serve only as keys and values.

    Args:
        clip: config of the text tower.
        num_prompts: P, an even number of learned prompts per block; 0 if the video
            tower makes them, see :meth:`mmstop.towers.Tower.text_prompts`.

    Raises:
        ValueError: ``num_prompts`` is odd or negative; or, in ``forward``, prompts are
            missing or there are two sets of them.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights='openai'),
        num_prompts: int = 8,
    ) -> None:
        if num_prompts < 0 or num_prompts % 2:
            raise ConfigError(
                f'num_prompts={num_prompts}, expected an even number: half of them '
                f'stand before the words, half behind'
            )
        super().__init__(clip)
        self.prompts: Optional[nn.Parameter] = None
        if num_prompts:
            prompts = torch.empty(self.depth, num_prompts, self.width)
            self.prompts = nn.Parameter(nn.init.normal_(prompts, std=INIT_STD))

    def forward(self, inputs: Tensor, prompts: Optional[Tensor] = None) -> Tensor:
        """Embed texts, with the video tower's prompts (depth, P, D) if it makes them.

        (B, L) -> (B, E), not normalised.
        """
        if self.prompts is not None and prompts is not None:
            raise ConfigError(
                f'text.num_prompts={self.prompts.shape[1]}, but the video tower makes '
                f'the prompts; set num_prompts=0'
            )
        prompts = self.prompts if prompts is None else prompts
        if prompts is None:
            raise ConfigError(
                'text.num_prompts=0 needs prompts from the video tower; use a method '
                'that makes them, in a CLIPRetriever or a CLIPRecognizer'
            )
        x = self.embed(inputs)
        mask = prompt_mask(inputs, prompts.shape[1])
        for i in range(self.depth):
            own = prompts[i].expand(x.shape[0], -1, -1).to(x.dtype)
            context = torch.cat([x, own], dim=1)
            x = x + self._branch(self.attend, i, x, context, mask)
            x = x + self._branch(self.feed, i, x)
        return self.pool(x, inputs)


def prompt_mask(inputs: Tensor, num_prompts: int) -> Tensor:
    """Tell which of [tokens, prompts] each token may see: (B, L) -> (B, L, L + P)."""
    B, L = inputs.shape
    place = torch.arange(L, device=inputs.device)
    words = (place <= place[:, None]).expand(B, L, L)
    before = (place > 0).expand(B, L)
    behind = place >= inputs.argmax(dim=-1, keepdim=True)  # from the end token on
    halves = [
        half.unsqueeze(-1).expand(-1, -1, num_prompts // 2) for half in (before, behind)
    ]
    return torch.cat([words, *halves], dim=-1)
