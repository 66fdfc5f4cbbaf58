"""Measure the cost of ranking, compared with sorting, which MMAction2 uses.

    python tools/analysis/benchmark_retrieval.py                      # as many as fit
    python tools/analysis/benchmark_retrieval.py --videos 10000 --only mmstop

Contestants take turns in one process, on the same features. Their peak memory is
measured in separate processes. ``mmstop`` ranks in both directions; the others rank
videos by captions only:

- ``RetrievalMetric`` is MMAction2's. Its items are pairs, so a video with six captions
  occurs six times, and the matrix has as many columns as there are captions.
- ``sorted matrix`` sorts a matrix of captions by videos in the same way.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from benchmark_model import MALLOC, MB, peak_of, rounds_of
from mmaction.evaluation import RetrievalMetric
from mmengine.logging import MMLogger

from mmstop.evaluation import VideoTextRetrieval

NOISE = 6.0  # norm relative to the video's; it gives a recall at 1 of about a half
MATRICES = 5  # float matrices that sorting holds at its peak
Results = list[tuple[torch.Tensor, torch.Tensor]]


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--videos', type=int, help='default: as many as fit into memory')
    add('--captions', type=int, default=6, help='captions per video')
    add('--width', type=int, default=512, help='width of the features')
    add('--only', nargs='+', choices=list(CONTESTANTS), default=list(CONTESTANTS))
    add('--threads', type=int, default=torch.get_num_threads())
    add('--repeats', type=int, default=3, help='rounds')
    add('--out', type=Path, help='JSON to write')
    add('--peak', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ('videos', 'captions', 'width', 'threads', 'repeats'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name} {value}: it must be at least 1')
    if args.videos is None:
        args.videos = most_videos(args.captions)
    return args


def most_videos(captions: int) -> int:
    """Return how many videos let MMAction2's metric use half of the free memory."""
    free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    pairs = (free / 2 / MATRICES / 4) ** 0.5
    return max(1, min(10_000, int(pairs) // captions))


# --- Contestants --------------------------------------------------------------------


def draw(videos: int, captions: int, width: int) -> Results:
    """Draw features of videos (E,) and their captions (captions, E)."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(videos, 1, width, generator=generator)
    noise = torch.randn(videos, captions, width, generator=generator)
    return list(zip(video[:, 0], video + NOISE * noise))


def ours(results: Results) -> Callable[[], dict]:
    metric = VideoTextRetrieval()
    return lambda: metric.compute_metrics(results)


def mmaction2(results: Results) -> Callable[[], dict]:
    pairs = [
        dict(video_feature=video.numpy(), text_feature=caption.numpy())
        for video, captions in results
        for caption in captions
    ]
    metric = RetrievalMetric()
    return lambda: metric.compute_metrics(pairs)


def sorted_matrix(results: Results) -> Callable[[], dict]:
    video = torch.stack([video for video, _ in results]).numpy()
    text = torch.cat([text for _, text in results]).numpy()
    owner = np.repeat(np.arange(len(video)), len(text) // len(video))

    def rank() -> dict:
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video)]
        distance = -(unit[0] @ unit[1].T)
        own = distance[np.arange(len(text)), owner]
        place = np.where(np.sort(distance) == own[:, None])[1]
        return {'R1': 100 * np.mean(place == 0)}

    return rank


CONTESTANTS = {
    'mmstop': ours,
    'RetrievalMetric': mmaction2,
    'sorted matrix': sorted_matrix,
}


# --- Measuring ----------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict:
    """Rank once for the recall, then for the time, then for the peak memory."""
    results = draw(args.videos, args.captions, args.width)
    works = {name: CONTESTANTS[name](results) for name in args.only}
    recalls = {name: recall(work()) for name, work in works.items()}
    seconds = rounds_of(works, args.repeats)
    return {
        'videos': args.videos,
        'captions': args.videos * args.captions,
        'width': args.width,
        'threads': args.threads,
        'contestants': {
            name: {
                'recall': recalls[name],
                'seconds': seconds[name],
                'memory_mb': peak_elsewhere(name, args),
            }
            for name in works
        },
    }


def recall(found: dict) -> float:
    return float(found.get('t2v/R1', found.get('R1')))


def peak_elsewhere(name: str, args: argparse.Namespace) -> float:
    """Measure one contestant's peak in a separate process, without its features."""
    numbers = [f'--{k}={getattr(args, k)}' for k in ('videos', 'captions', 'width')]
    command = [sys.executable, __file__, *numbers, f'--threads={args.threads}']
    done = subprocess.run(
        [*command, '--only', name, '--peak'],
        env={**os.environ, **MALLOC},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def table(report: dict) -> str:
    lines = [
        f'{report["captions"]:,} captions of {report["videos"]:,} videos, features of '
        f'{report["width"]}, {report["threads"]} threads',
        f'{"":<16}{"seconds":>9}{"ratio":>14}{"peak MB":>10}{"t2v R@1":>9}',
    ]
    first = next(iter(report['contestants'].values()))
    for name, found in report['contestants'].items():
        ratio = np.median(np.divide(found['seconds'], first['seconds']))
        lines.append(
            f'{name:<16}{np.median(found["seconds"]):9.2f}{ratio:14.1f}'
            f'{found["memory_mb"]:10.0f}{found["recall"]:9.1f}'
        )
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> Any:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('benchmark', log_level='WARNING')
    if args.peak:
        work = CONTESTANTS[args.only[0]](draw(args.videos, args.captions, args.width))
        print(peak_of(work, torch.device('cpu')) / MB)
        return 0
    report = measure(args)
    print(table(report))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == '__main__':
    sys.exit(main())
