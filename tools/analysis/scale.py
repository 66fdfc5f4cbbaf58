"""Estimate what a million, a hundred million and a billion clips take.

    python tools/analysis/scale.py measure --out docs/scale.json
    python tools/analysis/scale.py table docs/scale.json --index docs/index.json

``measure`` finds the CPU seconds that a clip takes to decode and to embed with STOP on
ViT-B/32, the disk that it takes in an index, and embeds generated videos with one, two
and four processes, whose indexes must be equal. ``table`` multiplies these units, and
those that benchmark_index.py wrote to the second file, by the numbers of clips.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, check_call
from tempfile import TemporaryDirectory
from typing import Any, Optional

import numpy as np
from benchmark_index import draw
from benchmark_index import write as write_index
from benchmark_use import timed as cpu_timed
from benchmark_videos import EXACT, VIDEOS, clip, write
from contestants import DEFAULT_ARCH, JOINT, Contestant, Setup, count_macs
from measuring import positive, timed
from reports import table

from mmstop.apis import VideoIndex

MODEL = ['--arch', 'ViT-moving-shapes', '--weights', 'mmstop']  # decoding counts
FRAMES, BATCH = 12, 4
PROCESSES = 1, 2, 4
ROWS = 100_000  # of the index whose size is measured
CLIPS = {'1 million': 10**6, '100 million': 10**8, '1 billion': 10**9}
HOUR, DAY, WEEK = 3600, 24, 7 * 24  # seconds, hours, hours
CORES, GPUS, TFLOPS = 64, 8, 100  # of an assumed machine; TFLOP/s of each GPU


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    measuring = commands.add_parser('measure')
    measuring.add_argument('--out', type=Path, required=True, help='JSON to write')
    measuring.add_argument('--videos', type=positive, default=64)
    measuring.add_argument('--repeats', type=positive, default=5)
    estimating = commands.add_parser('table')
    estimating.add_argument('units', type=Path, help='what measure wrote')
    estimating.add_argument('--index', type=Path, required=True)
    args = parser.parse_args(argv)
    if args.command == 'measure':
        found = measure(args.videos, args.repeats)
        args.out.write_text(json.dumps(found, indent=1) + '\n')
    else:
        units, index = (json.loads(p.read_text()) for p in (args.units, args.index))
        print(estimate(units, index))


def measure(num_videos: int, repeats: int) -> dict[str, Any]:
    """Measure decoding, the forward pass and embedding with several processes."""
    tower = Contestant(JOINT, Setup(DEFAULT_ARCH, FRAMES, BATCH))
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / 'video.mp4')
        write(VIDEOS[0], path)
        decode = cpu_seconds(partial(clip, path, FRAMES, EXACT), repeats)
        draw(Path(folder), ROWS)
        write_index('mmstop', Path(folder), ROWS)
        disk = sum(file.stat().st_size for file in Path(folder, 'mmstop').iterdir())
    return {
        'cpus': os.cpu_count(),
        'decode_s': decode,
        'forward_s': cpu_seconds(tower.forward, repeats) / BATCH,
        'gmacs': count_macs(tower) / BATCH / 1e9,
        'index_bytes': disk / ROWS,
        'embed_s': dict(embed(num_videos)),
    }


def cpu_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Return the median CPU time of a call, over all threads; the first is left out."""
    return median([cpu_timed(work)[0] for _ in range(1 + repeats)][1:])


def embed(num_videos: int) -> Iterator[tuple[str, float]]:
    """Embed the same videos with several processes: (processes, seconds).

    Raises:
        RuntimeError: the indexes differ.
    """
    with TemporaryDirectory() as folder:
        videos = Path(folder, 'videos')
        videos.mkdir()
        for i in range(num_videos):
            write(VIDEOS[0]._replace(seconds=2 + i % 8), str(videos / f'{i}.mp4'))
        first: dict[str, bytes] = {}
        for processes in PROCESSES:
            out = Path(folder, f'{processes}.index')
            launch = '-m torch.distributed.run --standalone --nproc_per_node'
            command = [sys.executable, *launch.split(), str(processes), '-m', 'mmstop']
            command += ['embed', str(videos), '--out', str(out), *MODEL]
            seconds, _ = timed(partial(check_call, command, stdout=DEVNULL))
            with VideoIndex(out) as index:
                found = dict(zip(*index.load()))
            first = first or found
            if found.keys() != first.keys() or not all(
                np.allclose(found[path], first[path], atol=1e-6) for path in first
            ):
                raise RuntimeError(f'{processes} processes made another index than one')
            yield str(processes), seconds


def estimate(units: dict[str, Any], index: dict[str, Any]) -> str:
    """Make the table from measured units."""
    rows, cpus, found = index['rows'], index['cpus'], index['mmstop']
    decode, forward = units['decode_s'] / HOUR, units['forward_s'] / HOUR
    gpu = 2 * units['gmacs'] / 1e3 / TFLOPS / HOUR
    fast = found['fast_text_s'] / rows  # of one thread
    costs = {  # of a clip
        'decode, core hours': decode,
        'embed on CPUs, core hours': forward,
        'machines to do both in a week': (decode + forward) / CORES / WEEK,
        'embed on GPUs, GPU hours *': gpu,
        'machines with GPUs to do both in a day *': max(decode / CORES, gpu / GPUS)
        / DAY,
        'index on disk, GB': units['index_bytes'] / 1e9,
        'write the index, hours': found['write_s'] / HOUR / rows,
        'prepare fast search, core hours': cpus * found['prepare_s'] / HOUR / rows,
        f'indexes of {rows:,} clips': 1 / rows,
        'fast search, memory, GB': found['memory_mb'] / 1e3 / rows,
        'fast search, core seconds': fast,
        'fast search on a machine, seconds': fast,
        'exact search, core seconds': cpus * found['exact_s'] / rows,
    }
    lines = []
    for name, cost in costs.items():
        values = [num * cost for num in CLIPS.values()]
        if name.endswith('on a machine, seconds'):  # a core searches whole indexes
            values = [max(found['fast_text_s'], value / CORES) for value in values]
        shown = map(math.ceil if name.startswith('machines') else readable, values)
        lines.append([name, *shown])
    return table(['', *CLIPS], lines)


def readable(value: float) -> str:
    """Round to two significant digits."""
    rounded = float(f'{value:.2g}')
    return f'{rounded:,.0f}' if rounded >= 10 else f'{rounded:g}'


if __name__ == '__main__':
    main()
