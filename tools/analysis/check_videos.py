"""Check every video of a config's datasets and list those that cannot be used.

    python tools/analysis/check_videos.py CONFIG --out bad.txt --write-clean

Each line of --out has a video, its annotation file, its line or key there and the
cause, separated by tabs. Videos are decoded in separate processes, so a decoder may
hang or crash. The exit status is 1 if there are bad videos and 2 if nothing could be
checked.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

from mmengine.config import Config
from tqdm import tqdm

import mmstop  # noqa: F401  (patches dependencies and registers modules)
from mmstop.apis.sandbox import try_videos
from mmstop.config import KeyValues, load_config
from mmstop.config_lists import listings
from mmstop.datasets import AnnotationError, load_captions
from mmstop.datasets.listing import Listed
from mmstop.errors import ConfigError


class Bad(NamedTuple):
    """A video that cannot be used."""

    video: Listed
    cause: str


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='config file')
    add(
        '--split',
        nargs='+',
        choices=['train', 'val', 'test'],
        default=['train', 'val', 'test'],
        help='splits to check (default: all)',
    )
    add('--workers', type=int, default=os.cpu_count(), help='decoding processes')
    add('--timeout', type=float, default=300, help='seconds that a video may take')
    add(
        '--decode',
        choices=['full', 'sample'],
        default='sample',
        help='all frames, strictly, or twelve per video (default)',
    )
    add('--out', type=Path, metavar='FILE', help='write the bad videos to this file')
    add(
        '--write-clean',
        action='store_true',
        help='write annotation files without the bad videos: x_clean.txt for x.txt',
    )
    add(
        '--rawframes',
        action='store_true',
        help='read extracted frames and their lists instead of videos (docs/data.md)',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='change the config: train_dataloader.dataset.data_root=data/mine',
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f'--workers {args.workers}: it must be at least 1')
    return args


def read_lists(cfg: Config, splits: Sequence[str]) -> dict[Path, list[Listed]]:
    """Read the annotation files of the splits, each once.

    Raises:
        AnnotationError: a file is invalid.
        ConfigError: a file or a folder is missing, or there is nothing to read.
    """
    lists: dict[Path, list[Listed]] = {}
    for split in splits:
        for listing in listings(cfg, split):
            if listing.ann_file in lists:
                continue
            videos = listing.videos()
            if videos is None:
                raise ConfigError(
                    f'{listing.where}: cannot read the lists of a {listing.kind}'
                )
            lists[listing.ann_file] = videos
    if not lists:
        raise ConfigError(f'{cfg.filename} has no videos for {" and ".join(splits)}')
    return lists


def find_bad(
    lists: dict[Path, list[Listed]], full: bool, workers: int, timeout: float
) -> dict[Path, list[Bad]]:
    """Check all videos, each once, and return the bad ones of each list."""
    distinct = {v.path: v for videos in lists.values() for v in videos}
    check = partial(Listed.check, full=full)
    faults = try_videos(check, [*distinct.values()], workers, timeout)
    causes = dict(zip(distinct, tqdm(faults, total=len(distinct), unit='video')))
    return {
        ann_file: [Bad(v, cause) for v in videos if (cause := causes[v.path])]
        for ann_file, videos in lists.items()
    }


def write_clean(ann_file: Path, bad: list[Bad]) -> Path:
    """Copy an annotation file without the bad videos."""
    path = ann_file.with_name(f'{ann_file.stem}_clean{ann_file.suffix}')
    entries = {video.entry for video, _ in bad}
    if all(isinstance(entry, int) for entry in entries):
        lines = ann_file.read_bytes().split(b'\n')
        kept = [line for n, line in enumerate(lines, 1) if n not in entries]
        path.write_bytes(b'\n'.join(kept))
    else:
        captions = load_captions(ann_file)
        kept = {name: c for name, c in captions.items() if name not in entries}
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=1), 'utf-8')
    return path


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options, args.rawframes)
        lists = read_lists(cfg, args.split)
    except (AnnotationError, ConfigError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    bad = find_bad(lists, args.decode == 'full', args.workers, args.timeout)
    rows = [
        f'{video.path}\t{ann_file}\t{video.entry}\t{cause}'
        for ann_file, found in bad.items()
        for video, cause in found
    ]
    for row in rows:
        print(row)
    for ann_file, found in bad.items():
        print(f'{ann_file}: {len(found)} of {len(lists[ann_file])} videos are bad')
        if args.write_clean and 0 < len(found) < len(lists[ann_file]):
            print(f'{write_clean(ann_file, found)}: the others')
    if args.out:
        args.out.write_text(''.join(f'{row}\n' for row in rows), 'utf-8')
    return 1 if rows else 0


if __name__ == '__main__':
    sys.exit(main())
