"""UniPT: a small network beside frozen towers that reads all their hidden states.

"UniPT: Universal Parallel Tuning for Transfer Learning with Efficient Parameter and
Memory", CVPR 2024, https://arxiv.org/abs/2308.14316. The same class stands beside both
towers. No gradient enters a tower, so training stores none of its activations.

Some choices are our own. Tokens behind the end of a text count as absent, so that
padding changes nothing. The anchor is CLIP's embedding before it is normalised, and the
frames' embeddings are averaged at unit norm, as in frozen CLIP.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower, at_least_float32

__all__ = ['UniPT']

EPSILON = 1e-6  # for tokens that have no affinity to the anchor


@MODELS.register_module()
class UniPT(TunedTower):
    """Aggregate the hidden states of a frozen tower, guided by its output.

    (B, 3, T, H, W) or (B, L) -> (B, E). A hidden state is what enters the first block
    or leaves any block. The tokens of each are projected to E and averaged by their
    affinity to the anchor, the tower's own embedding. A learned confidence then weighs
    the hidden states, and their sum moves the anchor.

    Args:
        clip: config of the video or text tower; nothing in it may be trainable.

    Raises:
        ValueError: a parameter of the wrapped tower is trainable, or the tower merges
            patches.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
    ) -> None:
        super().__init__(clip)
        learning = [n for n, p in self.clip.named_parameters() if p.requires_grad]
        if learning:
            raise ConfigError(
                f'clip has {len(learning)} trainable parameters, such as '
                f'{learning[0]!r}, and UniPT sends no gradient into it; use a frozen '
                f'tower'
            )
        if self.merge:
            raise ConfigError(
                f'clip.merge={self.merge}, but UniPT reads all tokens; remove it'
            )
        E = self.out_dim
        states = range(self.depth + 1)
        self.reduce = nn.ModuleList(nn.Linear(self.width, E) for _ in states)
        self.guide = nn.Linear(E, E)
        self.confidence = nn.Linear(E, 1)
        self.out = nn.Linear(E, E)

    def forward(self, inputs: Tensor) -> Tensor:
        """Embed a batch: (B, 3, T, H, W) or (B, L) -> (B, E), not normalised."""
        states, absent = self._states(inputs)
        anchor = self.project(_summary(states[-1], absent))
        guide = F.relu(self.guide(anchor))
        kinds = [
            self._aggregate(reduce, x, guide, absent)
            for reduce, x in zip(self.reduce, states)
        ]
        rows = torch.stack([row for row, _ in kinds], dim=-2)  # (..., depth + 1, E)
        trust = torch.cat([score for _, score in kinds], dim=-1).softmax(dim=-1)
        total = (trust.unsqueeze(-2) @ rows).squeeze(-2)
        x = anchor + F.relu(self.out(total))
        return x if absent is not None else F.normalize(x, dim=-1).mean(dim=1)

    @torch.no_grad()
    def _states(self, inputs: Tensor) -> tuple[list[Tensor], Optional[Tensor]]:
        """Return the hidden states (..., L, D), and which tokens of a text are absent.

        The latter is (B, L), bool, and None for videos.
        """
        x = self.embed(inputs)
        states = [x]
        for i in range(self.depth):
            x = x + self.attend(i, x)
            x = x + self.feed(i, x)
            states.append(x)
        if inputs.dim() > 2:
            return states, None
        place = torch.arange(inputs.shape[1], device=inputs.device)
        return states, place > inputs.argmax(dim=-1, keepdim=True)

    def _aggregate(
        self, reduce: nn.Module, x: Tensor, guide: Tensor, absent: Optional[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Aggregate a hidden state: (..., L, D) -> (..., E), and its score (..., 1)."""
        x = F.relu(reduce(x))
        affinity = F.relu(at_least_float32(x @ guide.unsqueeze(-1)).squeeze(-1))
        present = torch.ones_like(affinity)
        if absent is not None:
            affinity = affinity.masked_fill(absent, 0)
            present = present.masked_fill(absent, 0)
        weights = torch.stack(
            [
                affinity / (affinity.sum(-1, keepdim=True) + EPSILON),
                present / present.sum(-1, keepdim=True),
            ],
            dim=-2,
        )
        chosen, mean = (weights.to(x.dtype) @ x).unbind(dim=-2)
        return chosen + _summary(x, absent), self.confidence(guide * mean)


def _summary(x: Tensor, absent: Optional[Tensor]) -> Tensor:
    """Select CLS or the end token: (..., L, D) -> (..., D)."""
    if absent is None:
        return x[..., 0, :]
    end = (~absent).sum(-1) - 1
    return x[torch.arange(x.shape[0], device=x.device), end]
