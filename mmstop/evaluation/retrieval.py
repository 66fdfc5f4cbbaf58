"""Text-video retrieval: recall at 1, 5 and 10, median and mean rank, both directions.

Dual softmax: Cheng et al., "Improving Video-Text Retrieval by Multi-Stream Corpus
Alignment and Dual Softmax Loss", 2021, https://arxiv.org/abs/2109.04290. Query-bank
normalisation: Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation",
CVPR 2022, https://arxiv.org/abs/2112.12777. Both use more than the one query: the first
uses all queries of the test set, the second those of a bank. Their results are
therefore reported separately.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmstop.errors import ConfigError, MissingFileError, typed
from mmstop.registry import METRICS

__all__ = ['VideoTextRetrieval', 'exact_ranks', 'ranks']

CHUNK = 2**22  # scores per chunk: 32 MB in float64
RECALLS = (1, 5, 10)
Adjust = Callable[[Tensor], Tensor]


@METRICS.register_module()
class VideoTextRetrieval(BaseMetric):
    """Find videos by captions (``t2v``) and captions by videos (``v2t``).

    The metric reads the ``features`` of the samples: ``video_feature`` (E,) and
    ``text_feature``, which is (E,) or, for k captions of the video, (k, E). The score
    is their cosine similarity. Ties and NaN scores count against the model:

    - ``t2v``: the rank of a caption is the number of videos that score at least as high
      as its own, which is included.
    - ``v2t``: each video is represented by the caption of it that scores highest. The
      rank of a video is the number of videos that score at least as high as itself,
      which is included. This is CLIP4Clip's definition, https://arxiv.org/abs/2104.08860.
    - ``v2t_captions``, if a video has several captions: the rank of a video is one more
      than the number of other videos' captions that score at least as high as the best
      of its own. It is never better than ``v2t``.

    The results are ``R1``, ``R5``, ``R10`` (percent), ``MdR`` and ``MnR`` (ranks, from
    1) of each, such as ``retrieval/t2v/R1``. Scores are computed in chunks: in addition
    to the features, 10,000 videos and 60,000 captions take less than 2 GB.

    Args:
        dsl: also report dual softmax, as ``t2v_dsl`` and ``v2t_dsl``.
        query_bank: ``.npz`` file that ``features_out`` wrote for other videos, usually
            the training split. Report query-bank normalisation (the dynamic inverted
            softmax) with its captions as ``t2v_qb`` and with its videos as ``v2t_qb``.
        dsl_temperature: temperature of the dual softmax, above 0; CLIP's by default.
        bank_beta: inverse temperature of the query-bank normalisation, above 0; the
            default is its paper's.
        features_out: ``.npz`` file to write the features to: ``video`` (videos, E),
            ``text`` (captions, E) and ``owner`` (captions,), the video of each caption.
        collect_device: 'cpu' or 'gpu', where the processes' results are gathered.
        prefix: prefix of the results' names.

    Raises:
        FileNotFoundError: there is no such query bank.
        ValueError: an argument is out of range, or the file is not a query bank.
    """

    default_prefix = 'retrieval'

    @typed
    def __init__(
        self,
        dsl: bool = False,
        query_bank: Optional[str] = None,
        dsl_temperature: float = 0.01,
        bank_beta: float = 20.0,
        features_out: Optional[str] = None,
        collect_device: str = 'cpu',
        prefix: Optional[str] = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        for name, value in dict(
            dsl_temperature=dsl_temperature, bank_beta=bank_beta
        ).items():
            if value <= 0:
                raise ConfigError(f'{name}={value}, expected more than 0')
        if features_out is not None and not features_out.endswith('.npz'):
            raise ConfigError(f'features_out={features_out!r}, expected a .npz file')
        self.dsl = dsl
        self.dsl_temperature = dsl_temperature
        self.bank_beta = bank_beta
        self.bank = None if query_bank is None else Features.read(query_bank)
        self.features_out = features_out

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store the features of a batch."""
        for sample in data_samples:
            features = sample['features']
            video, text = features['video_feature'], features['text_feature']
            text = text.reshape(-1, video.shape[-1])  # (k, E)
            if not len(text):
                raise ValueError('a video has no caption; remove it from the test set')
            self.results.append((video.float().cpu(), text.float().cpu()))

    def compute_metrics(self, results: Sequence[tuple[Tensor, Tensor]]) -> dict:
        """Compute the results in both directions."""
        features = Features.join(results)
        video, text, owner = features
        print_log(f'{len(text):,} captions of {len(video):,} videos', 'current')
        if self.features_out is not None:
            features.write(self.features_out)
        bank = self.bank
        if bank is not None and bank.video.shape[1] != video.shape[1]:
            raise ConfigError(
                f'the query bank has features of width {bank.video.shape[1]}, this '
                f'model of width {video.shape[1]}; write the bank with this model'
            )
        own = torch.arange(len(video))
        t2v, v2t, v2t_captions = ranks(video, text, owner)
        several = _summary('v2t_captions', v2t_captions)
        return {
            **_summary('t2v', t2v),
            **self._adjusted('t2v', text, owner, video, own, bank and bank.text),
            **_summary('v2t', v2t),
            **self._adjusted('v2t', video, own, text, owner, bank and bank.video),
            **(several if len(text) > len(video) else {}),
        }

    def _adjusted(
        self,
        name: str,
        queries: Tensor,
        query_owner: Tensor,
        gallery: Tensor,
        gallery_owner: Tensor,
        bank: Optional[Tensor],
    ) -> dict[str, float]:
        """Rank by the requested adjustments of the raw scores."""
        adjusted: dict[str, Adjust] = {}
        if self.dsl:
            adjusted[f'{name}_dsl'] = dual_softmax(
                queries, gallery, self.dsl_temperature
            )
        if bank is not None:
            adjusted[f'{name}_qb'] = inverted_softmax(bank, gallery, self.bank_beta)
        summaries = [
            _summary(
                column,
                exact_ranks(queries, query_owner, gallery, gallery_owner, adjust)[0],
            )
            for column, adjust in adjusted.items()
        ]
        return {key: value for summary in summaries for key, value in summary.items()}


class Features(NamedTuple):
    """Unit-norm features, float64, so that equal features give equal scores."""

    video: Tensor  # (videos, E)
    text: Tensor  # (captions, E)
    owner: Tensor  # (captions,), the video of each caption, in ascending order

    @classmethod
    def join(cls, results: Sequence[tuple[Tensor, Tensor]]) -> 'Features':
        """Join the features of all samples, each (E,) and (k, E)."""
        counts = torch.tensor([len(text) for _, text in results])
        return cls(
            _unit(torch.stack([video for video, _ in results])),
            _unit(torch.cat([text for _, text in results])),
            torch.arange(len(results)).repeat_interleave(counts),
        )

    def write(self, path: str) -> None:
        """Write a query bank; the file appears only when complete."""
        part = Path(f'{path}.part')
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open('wb') as file:
            np.savez(
                file,
                video=self.video.float().numpy(),
                text=self.text.float().numpy(),
                owner=self.owner.numpy(),
            )
        part.replace(path)

    @classmethod
    def read(cls, path: str) -> 'Features':
        """Read a query bank."""
        if not Path(path).is_file():
            raise MissingFileError(
                f'query_bank={path!r}: there is no such file; test on the training '
                f'split with features_out={path!r} to write it'
            )
        try:
            with np.load(path, allow_pickle=False) as bank:
                video, text, owner = (
                    torch.from_numpy(bank[key]) for key in ('video', 'text', 'owner')
                )
        except Exception as error:  # from zipfile, NumPy or a missing key
            raise ConfigError(
                f'query_bank={path!r} was not written by features_out ({error})'
            ) from None
        return cls(_unit(video), _unit(text), owner)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.double(), dim=-1)


def ranks(video: Tensor, text: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank in both directions, computing every score once and without sorting.

    The results equal those of :func:`exact_ranks`. Scores are computed in float32.
    Near-ties, where rounding could change the rank, are re-ranked in float64.

    Args:
        video: (V, E), float64 of unit norm.
        text: (C, E), float64 of unit norm.
        owner: (C,), the video of each caption, ascending; every video occurs.
    Returns:
        ranks of the captions among videos, (C,), of the videos among videos, (V,), and
        of the videos among captions, (V,), int64, from 1, as defined in
        :class:`VideoTextRetrieval`.
    """
    (V, E), C = video.shape, len(text)
    # Multiply with NumPy, since PyTorch may be set to less precision than float32.
    video32, text32 = video.float().numpy(), text.float().numpy()
    own = torch.linalg.vecdot(text, video[owner]).float()
    best = own.new_full((V,), -torch.inf).scatter_reduce(0, owner, own, 'amax')
    # An error bound for products of unit vectors, in any order of summation.
    slack = (E + 8) * torch.finfo(torch.float32).eps / 2
    # How many scores are surely less and how many possibly: (2, queries).
    less_t2v = torch.zeros(2, C, dtype=torch.int64)
    less_v2t, less_captions = torch.zeros(2, 2, V, dtype=torch.int64)
    counts = owner.bincount(minlength=V)
    first = F.pad(counts.cumsum(0), (1, 0))  # caption of each video, and C
    for videos in _chunks(first, max(1, CHUNK // V)):
        chunk = slice(int(first[videos.start]), int(first[videos.stop]))
        scores = torch.from_numpy(text32[chunk] @ video32.T)
        scores.scatter_(1, owner[chunk, None], -torch.inf)  # skip one's own video
        # Of each video in the chunk, what its best caption scores with all videos.
        groups = scores.split(counts[videos].tolist())
        tops = torch.stack([group.amax(0) for group in groups])
        less = torch.empty_like(scores)  # floats, which sum faster than bools
        for i, shift in enumerate((-slack, slack)):
            torch.lt(scores, own[chunk, None] + shift, out=less)
            less_t2v[i, chunk] = less.sum(1).long()
            torch.lt(scores, best + shift, out=less)
            less_captions[i] += less.sum(0).long()
            less_v2t[i] += (tops < best + shift).sum(0)
    # If one's own score is NaN, nothing counts as less, not even one's own entry.
    t2v = (1 + V - less_t2v[0]).clamp(max=V)
    v2t = (1 + V - less_v2t[0]).clamp(max=V)
    captions = (1 + C - less_captions[0]).clamp(max=1 + C - counts)
    one = torch.arange(V)
    again = less_t2v[0] != less_t2v[1]
    t2v[again], _ = exact_ranks(text[again], owner[again], video, one)
    again = less_captions[0] != less_captions[1]  # so wherever less_v2t differs
    v2t[again], captions[again] = exact_ranks(video[again], one[again], text, owner)
    return t2v, v2t, captions


def _chunks(first: Tensor, captions: int) -> Iterator[slice]:
    """Divide the videos into runs with about so many captions, or one video."""
    start, last = 0, len(first) - 1
    while start < last:
        stop = int(torch.searchsorted(first, first[start] + captions, right=True)) - 1
        yield slice(start, max(start + 1, stop))
        start = max(start + 1, stop)


def exact_ranks(
    queries: Tensor,
    query_owner: Tensor,
    gallery: Tensor,
    gallery_owner: Tensor,
    adjust: Optional[Adjust] = None,
) -> tuple[Tensor, Tensor]:
    """Rank the best of each query's own items among other videos and their items.

    Scores are computed in float64 and rounded to the precision of float32 before they
    are compared. So equal features tie, although a matrix product may sum in a
    different order at different positions.

    Args:
        queries: (Q, E), float64 of unit norm.
        query_owner: (Q,), the index of each query's video.
        gallery: (G, E), float64 of unit norm.
        gallery_owner: (G,), the index of each item's video, ascending; every query's
            video occurs.
        adjust: function applied to scores (queries, G) before they are compared.
    Returns:
        ranks among videos, each by its best item, and among items: both (Q,), int64,
        from 1.
    """
    owners, counts = gallery_owner.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).numpy()
    # In place, since a list of small results would keep whole chunks in memory.
    by_video, by_item = torch.empty_like(query_owner), torch.empty_like(query_owner)
    for start in range(0, len(queries), rows := max(1, CHUNK // len(gallery))):
        chunk = slice(start, start + rows)
        scores = queries[chunk] @ gallery.T
        if adjust is not None:
            scores = adjust(scores)
        scores = _rounded(scores)
        tops = torch.from_numpy(np.maximum.reduceat(scores.numpy(), starts, axis=1))
        own = query_owner[chunk, None] == owners
        best = tops.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        by_video[chunk] = 1 + (~(tops < best) & ~own).sum(1)
        own = query_owner[chunk, None] == gallery_owner
        by_item[chunk] = 1 + (~(scores < best) & ~own).sum(1)
    return by_video, by_item


def _rounded(x: Tensor) -> Tensor:
    """Round float64 to the precision of float32, but keep its range.

    Dual-softmax scores are often too small for float32, where they would all tie.
    """
    lost = 52 - 23  # mantissa bits
    bits = x.view(torch.int64) + (1 << lost - 1)
    return (bits >> lost << lost).view(torch.float64)


def dual_softmax(queries: Tensor, gallery: Tensor, temperature: float) -> Adjust:
    """Weight each score by the item's softmax over all queries.

    The score s becomes s * exp(s / temperature) / (sum of exp(s' / temperature) over
    the item's scores s' for all queries).
    """
    mass, _ = _survey(queries, gallery, 1 / temperature)
    return lambda scores: scores * (scores / temperature - mass).exp()


def inverted_softmax(bank: Tensor, gallery: Tensor, beta: float) -> Adjust:
    """Divide scores by the item's mass over the bank if the nearest item is a hub.

    A hub is an item that is the nearest one to some query of the bank. For queries
    whose nearest item is a hub, the score s of an item becomes exp(beta s) divided by
    the sum of exp(beta s) over the bank. The other queries keep their scores.
    """
    mass, hubs = _survey(bank, gallery, beta)

    def adjust(scores: Tensor) -> Tensor:
        near_a_hub = hubs[scores.argmax(1)]
        return torch.where(near_a_hub[:, None], beta * scores - mass, scores)

    return adjust


def _survey(queries: Tensor, gallery: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Compute the log-sum of exp(scale * score) over queries, and mark nearest items.

    Returns:
        (G,) float64, and (G,) bool, True if an item is the nearest to some query.
    """
    mass = torch.full((len(gallery),), -torch.inf, dtype=torch.float64)
    nearest = torch.zeros(len(gallery), dtype=torch.bool)
    for chunk in queries.split(max(1, CHUNK // len(gallery))):
        scores = chunk @ gallery.T
        nearest[scores.argmax(1)] = True
        mass = torch.logaddexp(mass, (scale * scores).logsumexp(0))
    return mass, nearest


def _summary(name: str, found: Tensor) -> dict[str, float]:
    """Summarise ranks as ``name/R1`` and so on."""
    found = found.double()
    return {
        **{f'{name}/R{k}': 100 * (found <= k).double().mean().item() for k in RECALLS},
        f'{name}/MdR': found.quantile(0.5).item(),
        f'{name}/MnR': found.mean().item(),
    }
