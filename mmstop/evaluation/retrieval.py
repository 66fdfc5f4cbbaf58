"""Text-video retrieval: recall at 1, 5 and 10, median and mean rank, both directions.

Dual softmax: Cheng et al., "Improving Video-Text Retrieval by Multi-Stream Corpus
Alignment and Dual Softmax Loss", 2021, https://arxiv.org/abs/2109.04290. Query-bank
normalisation: Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation",
CVPR 2022, https://arxiv.org/abs/2112.12777. Both use more than the one query: the first
uses all queries of the test set, the second those of a bank. Their results are
therefore reported separately.
"""

from collections.abc import Sequence
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

from .ranking import Adjust, dual_softmax, exact_ranks, inverted_softmax, ranks

__all__ = ['VideoTextRetrieval']

RECALLS = (1, 5, 10)


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


def _summary(name: str, found: Tensor) -> dict[str, float]:
    """Summarise ranks as ``name/R1`` and so on."""
    found = found.double()
    return {
        **{f'{name}/R{k}': 100 * (found <= k).double().mean().item() for k in RECALLS},
        f'{name}/MdR': found.quantile(0.5).item(),
        f'{name}/MnR': found.mean().item(),
    }
