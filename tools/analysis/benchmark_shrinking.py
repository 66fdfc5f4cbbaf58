"""Measure how much faster training data loads from shrunk videos.

    python tools/analysis/benchmark_shrinking.py --workers 0 1 2

generates videos of ten seconds at 640 x 360, shrinks them with
tools/data/shrink_videos.py and loads both through the training pipeline of
configs/stop_msrvtt.py, without a model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from benchmark_pipeline import measure_pipeline
from benchmark_reading import Made, write

from mmstop.engine.checks import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'stop_msrvtt.py'
SHRINK = ROOT / 'tools' / 'data' / 'shrink_videos.py'
VIDEO = Made('10 s', 10, 640, 360)


def main(argv: Optional[Sequence[str]] = None, video: Made = VIDEO) -> list[dict]:
    """Measure, print, and return a row for each folder, decoder and number of workers.

    Args:
        argv: command-line arguments.
        video: the kind of video to generate.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--workers', nargs='+', type=int, default=[0, 1, 2])
    add('--videos', type=int, default=16, help='number of videos (%(default)s)')
    add('--repeats', type=int, default=3, help='rounds that count (%(default)s)')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, video, args.videos)
        options = {
            'whole': ('videos', []),
            'small': ('small', []),
            'small, 3 fps': ('small_3fps', ['--fps', '3']),
        }
        rows = []
        for name, (target, extra) in options.items():
            if target != 'videos':
                command = [sys.executable, SHRINK, root / 'videos', root / target]
                subprocess.run(
                    [*map(str, command), *extra], check=True, stdout=subprocess.DEVNULL
                )
            rows += measure(root, target, name, args)
    print(table(rows))
    return rows


def make(root: Path, video: Made, num: int) -> None:
    """Write videos and the annotation file that lists them."""
    (root / 'videos').mkdir()
    captions = {}
    for i in range(num):
        path = Path(write(video, root))
        captions[f'{i}.mp4'] = ['a camera pans']
        path.rename(root / 'videos' / f'{i}.mp4')
    (root / 'train.json').write_text(json.dumps(captions))


def measure(root: Path, folder: str, name: str, args: argparse.Namespace) -> list[dict]:
    """Measure one folder of videos."""
    dataset = dict(
        data_root=str(root), ann_file='train.json', data_prefix=dict(video=folder)
    )
    cfg = load_config(str(CONFIG))
    cfg.train_dataloader.merge(dict(batch_size=4, dataset=dataset))
    measured = measure_pipeline(cfg, args.workers, 2 * args.videos, args.repeats)
    return [dict(row, videos=name) for row in measured['rows']]


def table(rows: list[dict]) -> str:
    """Format the measurements, with the speed-up over the whole videos."""
    whole = {
        (row['decoder'], row['workers']): row['videos_per_s']
        for row in rows
        if row['videos'] == 'whole'
    }
    lines = ['videos        decoder  workers  videos/s  faster']
    for row in rows:
        ratio = row['videos_per_s'] / whole[row['decoder'], row['workers']]
        lines.append(
            f'{row["videos"]:<13} {row["decoder"]:<8} {row["workers"]:>7} '
            f'{row["videos_per_s"]:>9.1f} {ratio:>7.2f}'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
