"""TempMe: merge tokens within frames, then join neighbouring clips and merge on.

"TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval", ICLR 2025,
https://arxiv.org/abs/2409.01156. Both towers have LoRA of rank 8 on queries, keys and
values, which is the towers' own option: ``clip=dict(type='CLIPViT', lora=dict(rank=8),
...)`` here, and ``dict(type='CLIPText', lora=dict(rank=8), ...)`` beside it.

The paper's frames are a multiple of the clips that it joins; this is what happens to
other numbers. Where a number of clips is not divisible, the next larger divisor joins.
The learned frame positions are interpolated. A tower with few blocks leaves out the
first joins.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.errors import ConfigError, check_range, typed
from mmstop.registry import MODELS
from mmstop.towers import TunedTower
from mmstop.towers.merging import clips_to_join, match, rows_of, take

from .prompt_tower import interpolated

__all__ = ['TempMeCLIPViT']


@MODELS.register_module()
class TempMeCLIPViT(TunedTower):
    """Merge the patches of a video step by step: (B, 3, T, H, W) -> (B, E).

    A clip is a sequence of neighbouring frames, with their CLS tokens in front and
    their merged patches behind, in order. It begins as one frame. The first blocks
    merge pairs of patches after their attention. The blocks before the last one join
    clips first, and merge a fraction of the patches before and after their attention.
    Attention counts a merged patch as often as it has parts. The embedding is the mean
    of the unit-norm projected CLS of all frames.

    Args:
        clip: config of the video tower, which should have LoRA.
        pairs: pairs per frame that each of the first blocks merges, at least 0.
        joins: numbers of clips that join, for each of the last blocks but one.
        join_ratio: fraction of the joined patches to merge before attention, in
            [0, 0.5].
        ratio: fraction to merge after attention, from the first join on, in [0, 0.5].

    Raises:
        ValueError: an argument is out of range, or the wrapped tower merges, too.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(
            type='CLIPViT',
            arch='ViT-B-32-quickgelu',
            weights='openai',
            lora=dict(rank=8),
        ),
        pairs: int = 2,
        joins: Sequence[int] = (2, 2, 3),
        join_ratio: float = 0.3,
        ratio: float = 0.1,
    ) -> None:
        if pairs < 0:
            raise ConfigError(f'pairs={pairs}, expected at least 0')
        if not joins or min(joins) < 2:
            raise ConfigError(f'joins={joins!r}, expected numbers of at least 2')
        check_range('join_ratio', join_ratio, 0, 0.5)
        check_range('ratio', ratio, 0, 0.5)
        super().__init__(clip)
        if self.merge:
            raise ConfigError(
                f'clip.merge={self.merge}, but TempMe merges by its own rules; remove '
                f'it, and set pairs, join_ratio and ratio'
            )
        last = self.depth - 1
        joins = joins[-last:]
        self.joins = dict(enumerate(joins, last - len(joins)))  # block -> clips
        self.pairs, self.join_ratio, self.ratio = pairs, join_ratio, ratio
        clips = [prod(joins[j:]) for j in range(len(joins))]
        self.positions = nn.ParameterList(torch.zeros(n, self.width) for n in clips)

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        x = self.embed(video)
        sizes = torch.ones_like(x[..., self.num_prefix :, 0])
        first, last = min(self.joins), self.depth - 1
        for i in range(last):
            if i in self.joins:
                x, sizes = self._join(i, x, sizes)
            n = sizes.shape[-1]
            pairs = self.pairs if i < first else int(n * self.ratio)
            with torch.no_grad():
                keys = self.mean_keys(i, x[..., -n:, :])
            x = x + self._branch(self.attend, i, x, None, weigh(x, sizes))
            x, sizes = merge(x, sizes, keys, pairs)
            x = x + self._branch(self.feed, i, x)
        # Only CLS is read from here on.
        cls = x[..., : x.shape[-2] - sizes.shape[-1], :]
        cls = cls + self._branch(self.attend, last, cls, x, weigh(x, sizes))
        cls = cls + self._branch(self.feed, last, cls)
        return self.pool(cls.flatten(1, 2).unsqueeze(2), video)

    def _join(self, i: int, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Join neighbouring clips before block ``i`` and merge their patches.

        (B, C, L, D), (B, C, n) -> (B, C', L', D), (B, C', n'), with C' < C clips unless
        there is only one.
        """
        C, n = sizes.shape[1:]
        number = clips_to_join(C, self.joins[i])
        alike = join(x[..., -n:, :].detach(), 0, number)
        place = interpolated(self.positions[i - min(self.joins)], C)
        x = join(x + place.unsqueeze(1), x.shape[2] - n, number)
        sizes = join(sizes.unsqueeze(-1), 0, number).squeeze(-1)
        return merge(x, sizes, alike, int(sizes.shape[-1] * self.join_ratio))


def join(x: Tensor, frames: int, number: int) -> Tensor:
    """Join neighbouring clips, with the first ``frames`` tokens of each in front.

    (B, C, L, D) -> (B, C / number, number * L, D).
    """
    x = x.unflatten(1, (-1, number))
    front, behind = x[..., :frames, :].flatten(2, 3), x[..., frames:, :].flatten(2, 3)
    return torch.cat([front, behind], dim=2)


def weigh(x: Tensor, sizes: Tensor) -> Tensor:
    """Return what attention adds to its scores: (..., L, D), (..., n) -> (..., 1, L).

    It is the logarithm of a patch's size, and 0 for the other tokens, which are first.
    """
    weight = F.pad(sizes.log(), (x.shape[-2] - sizes.shape[-1], 0))
    return weight.to(x.dtype).unsqueeze(-2)


def merge(
    x: Tensor, sizes: Tensor, features: Tensor, pairs: int
) -> tuple[Tensor, Tensor]:
    """Average the most similar pairs of patches, and keep them in order.

    As in :mod:`mmstop.towers.merging`, every second patch may merge into one of those
    between, where its average stands.

    Args:
        x: tokens (..., L, D), the last n of which are patches.
        sizes: number of parts of each patch, (..., n).
        features: what to compare the patches by, (..., n, any width).
        pairs: number of pairs; at most half of the patches merge.
    Returns:
        tokens (..., L - pairs, D) and sizes (..., n - pairs).
    """
    rest, n = x.shape[-2] - sizes.shape[-1], sizes.shape[-1]
    pairs = min(pairs, n // 2)
    if not pairs:
        return x, sizes
    even, kept, odd = match(features, pairs)  # indices among the even and odd patches
    merged, partner = 2 * even, 2 * odd + 1
    others = torch.arange(1, n, 2, device=x.device).expand(*kept.shape[:-1], -1)
    order = torch.cat([2 * kept, others], dim=-1).sort(dim=-1)[0]  # of those that stay
    # Integers, since a sum of floats has no fixed order on GPUs.
    stays = torch.ones_like(sizes, dtype=torch.long).scatter(-1, merged, 0)
    place = stays.cumsum(-1) - 1
    total = sizes.scatter_add(-1, partner, sizes.gather(-1, merged))
    # A patch moves towards those that merge into it, by their share of the sum.
    share = sizes.gather(-1, merged) / total.gather(-1, partner)
    step = take(x, rest + merged) - take(x, rest + partner)
    step = step * share.unsqueeze(-1)
    front = torch.arange(rest, device=x.device).expand(*order.shape[:-1], -1)
    x = take(x, torch.cat([front, rest + order], dim=-1))
    rows = rows_of(rest + place.gather(-1, partner), x.shape[-2])
    flat = x.flatten(0, -2).index_add_(0, rows.flatten(), step.flatten(0, -2))
    return flat.view_as(x), total.gather(-1, order)
