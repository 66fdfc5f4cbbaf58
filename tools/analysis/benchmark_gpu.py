"""Measure a GPU in minutes: videos a second and memory, to the end of its memory.

    python tools/analysis/benchmark_gpu.py --out gpu.json

For 12 and for 64 frames, the batch doubles until the memory is full. Each size has the
forward pass and the training step of ``benchmark.py``, in bfloat16, in videos a second,
and the peak memory that they add to the weights. ``decoding`` is the share of the time
that decoding would take if it did not overlap with the steps: clips of 320 x 240, on
all CPU cores.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

import numpy as np
import torch
from benchmark_videos import EXACT, VIDEOS, clip, write
from contestants import DEFAULT_ARCH, METHODS, REFERENCE, WORKS, Contestant, Setup
from measuring import added_mb, positive, rounds, timed
from reports import table

NAMES = (REFERENCE, 'stop-joint', 'stop-frame', 'stop-joint-merge')


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--methods', nargs='+', choices=list(METHODS), default=list(NAMES))
    add('--arch', default=DEFAULT_ARCH, help="open_clip's name or a JSON file")
    add('--frames', nargs='+', type=positive, default=[12, 64])
    add('--most', type=positive, default=2**16, help='largest batch')
    add('--device', choices=['cuda', 'cpu'], default='cuda')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='bfloat16')
    add('--repeats', type=positive, default=3, help='rounds of each size')
    add('--seconds', type=positive, default=240, help='after which no size starts')
    add('--out', type=Path, help='JSON to write')
    args = parser.parse_args(argv)
    until = time.monotonic() + args.seconds
    rows = [row for frames in args.frames for row in measure(args, frames, until)]
    print(table(list(rows[0]), [row.values() for row in rows]))
    if args.out:
        cuda = args.device == 'cuda'
        name = torch.cuda.get_device_name() if cuda else 'CPU'
        report = {'torch': torch.__version__, 'device': name, 'rows': rows}
        args.out.write_text(json.dumps(report, indent=1) + '\n')


def measure(args: argparse.Namespace, frames: int, until: float) -> Iterator[dict]:
    """Measure all sizes of each method; every method gets its first."""
    decoding = decode_seconds(frames) / (os.cpu_count() or 1)
    for name in args.methods:
        batch = 1
        while batch <= args.most and (batch == 1 or time.monotonic() < until):
            setup = Setup(args.arch, frames, batch, args.device, args.dtype)
            try:
                row = measure_size(name, setup, args.repeats)
            except torch.OutOfMemoryError:
                break
            finally:  # of the size that did not fit, too
                gc.collect()
                torch.cuda.empty_cache()
            step = 1 / row['step_videos_per_s']
            yield {**row, 'decoding': decoding / (decoding + step)}
            batch *= 2


def measure_size(name: str, setup: Setup, repeats: int) -> dict:
    """Measure one method at one size.

    Raises:
        torch.OutOfMemoryError: it does not fit into the GPU's memory.
    """
    contestant = Contestant(METHODS[name], setup)
    works = {work: getattr(contestant, work) for work in WORKS}
    row: dict = {'tower': name, 'frames': setup.frames, 'batch': setup.batch}
    for work, seconds in rounds(works, repeats).items():
        row[f'{work}_videos_per_s'] = setup.batch / float(np.median(seconds))
    for work, call in works.items():
        row[f'{work}_mb'] = added_mb(call, setup.device)
    return row


def decode_seconds(frames: int) -> float:
    """Return the time that one core takes to open a video and decode a clip."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder, 'video.mp4'))
        write(VIDEOS[0], path)
        clip(path, frames, EXACT)  # loads the libraries
        return min(timed(clip, path, frames, EXACT)[0] for _ in range(3))


if __name__ == '__main__':
    main()
