"""Measure the cost of ranking, compared with sorting, which MMAction2 uses.

    python tools/analysis/benchmark_retrieval.py --videos 3462
    python tools/analysis/benchmark_retrieval.py --videos 10000 --only mmstop

Contestants take turns in one process, on the same features. Their peak memory is
measured in separate processes. ``mmstop`` ranks in both directions; the others rank
videos by captions only:

- ``RetrievalMetric`` is MMAction2's. Its items are pairs, so a video with six captions
  occurs six times, and the matrix has as many columns as there are captions.
- ``sorted matrix`` sorts a matrix of captions by videos in the same way.
- ``two products`` is no ranking: NumPy's products alone, of captions by videos and of
  videos by captions, in chunks of the same size as ours.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Optional

import numpy as np
import torch
from measuring import added_mb, alone, positive, rounds
from mmaction.evaluation import RetrievalMetric
from mmengine.logging import MMLogger
from reports import table
from torch import Tensor

from mmstop.evaluation import VideoTextRetrieval
from mmstop.evaluation.ranking import CHUNK

CAPTIONS = 6  # per video
WIDTH = 512
NOISE = 6.0  # norm relative to the video's; it gives a recall at 1 of about a half


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--videos', type=positive, default=1000)
    add('--only', nargs='+', choices=list(CONTESTANTS), default=list(CONTESTANTS))
    add('--threads', type=positive, default=torch.get_num_threads())
    add('--repeats', type=positive, default=3, help='rounds')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('benchmark', log_level='WARNING')
    features = draw(args.videos)
    works = {name: CONTESTANTS[name](features) for name in args.only}
    seconds = rounds(works, args.repeats)
    rows = [
        [name, float(np.median(seconds[name])), alone(peak, name, args.videos), work()]
        for name, work in works.items()
    ]
    print(table(['', 'seconds', 'peak MB', 't2v R@1'], rows))


def peak(name: str, videos: int) -> float:
    """Measure the peak memory in MB that one contestant adds to its features."""
    return added_mb(CONTESTANTS[name](draw(videos)))


def draw(videos: int) -> list[tuple[Tensor, Tensor]]:
    """Draw features of videos (E,) and their captions (CAPTIONS, E)."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(videos, 1, WIDTH, generator=generator)
    noise = torch.randn(videos, CAPTIONS, WIDTH, generator=generator)
    return list(zip(video[:, 0], video + NOISE * noise))


# --- Contestants: each returns what computes its recall -------------------------------


def ours(features: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    metric = VideoTextRetrieval()
    return lambda: metric.compute_metrics(features)['t2v/R1']


def mmaction2(features: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    pairs = [
        dict(video_feature=video.numpy(), text_feature=caption.numpy())
        for video, captions in features
        for caption in captions
    ]
    metric = RetrievalMetric()
    return lambda: metric.compute_metrics(pairs)['R1']


def sorted_matrix(features: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    video = torch.stack([video for video, _ in features]).numpy()
    text = torch.cat([text for _, text in features]).numpy()
    owner = np.repeat(np.arange(len(video)), len(text) // len(video))

    def rank() -> float:
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video)]
        distance = -(unit[0] @ unit[1].T)
        own = distance[np.arange(len(text)), owner]
        place = np.where(np.sort(distance) == own[:, None])[1]
        return float(100 * np.mean(place == 0))

    return rank


def two_products(features: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    video = torch.stack([video for video, _ in features]).numpy()
    text = torch.cat([text for _, text in features]).numpy()

    def multiply() -> float:
        for queries, gallery in ((text, video), (video, text)):
            rows = max(1, CHUNK // len(gallery))
            for start in range(0, len(queries), rows):
                queries[start : start + rows] @ gallery.T
        return math.nan

    return multiply


CONTESTANTS = {
    'mmstop': ours,
    'RetrievalMetric': mmaction2,
    'sorted matrix': sorted_matrix,
    'two products': two_products,
}

if __name__ == '__main__':
    main()
