"""Re-encode a folder of videos at a smaller size, for fast access to every frame.

    python tools/data/shrink_videos.py data/msrvtt/videos data/msrvtt/videos_224

Every video in the first folder is encoded as H.264 without sound in the second folder,
under the same name, so that annotation files still match. All frames and timestamps are
kept, or --fps frames per second. .mkv and .mov files keep their container; all others
become MP4, whatever their names are. Each result is compared with its source: the
number of frames, and the first, middle and last frame. Complete results are not made
again, so a stopped run continues where it left off. The exit status is 1 if videos
failed and 2 if the run ended early.
"""

import argparse
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Optional

from shrinking import remove_parts, shrink
from shrinking_encoder import container_of
from tqdm import tqdm

from mmstop.apis.sandbox import try_videos
from mmstop.apis.sources import list_videos
from mmstop.errors import ConfigError

SAMPLE = 16  # videos to encode first, to estimate the space that all will take


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('source', type=Path, help='folder of the videos')
    add('target', type=Path, help='folder of the results, created if necessary')
    add('--short-side', type=int, default=224, help='pixels (224); never enlarged')
    add('--fps', type=Fraction, help='frames per second, e.g. 3 or 30000/1001 (all)')
    add('--workers', type=int, default=os.cpu_count(), help='encoding processes')
    add('--timeout', type=float, default=3600, help='seconds that a video may take')
    add('--failed', type=Path, metavar='FILE', help='write the failed videos to a file')
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Check the command-line arguments.

    Raises:
        ConfigError: an argument is invalid.
    """
    if args.short_side < 16 or args.short_side % 2:
        raise ConfigError(
            f'--short-side {args.short_side}: expected an even number of at least 16'
        )
    if args.fps is not None and args.fps <= 0:
        raise ConfigError(f'--fps {args.fps}: expected more than 0')
    if args.workers < 1:
        raise ConfigError(f'--workers {args.workers}: expected at least 1')
    if not args.timeout > 0:
        raise ConfigError(f'--timeout {args.timeout:g}: expected more than 0 seconds')
    if not args.source.is_dir():
        raise ConfigError(f'{args.source}: there is no such folder')
    source, target = args.source.resolve(), args.target.resolve()
    if source in (target, *target.parents) or target in source.parents:
        raise ConfigError(
            f'{args.target}: it is, contains or lies inside the folder of the videos; '
            f'choose a separate folder'
        )
    if args.target.exists() and not args.target.is_dir():
        raise ConfigError(f'{args.target}: it is a file, expected a folder')


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder.

    Raises:
        ConfigError: another run is in it.
    """
    path = folder / '.lock'
    with path.open('a') as file:
        try:
            # Not flock, which encoding processes would still hold after a kill.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    f'{folder}: another run is writing to it; wait until it ends'
                ) from None
            # Some network file systems do not support locks.
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def shrink_all(args: argparse.Namespace, names: Sequence[str]) -> dict[str, str]:
    """Make the results, a sample first, and return {name: why it failed}.

    Raises:
        ConfigError: the remaining results will not fit on the disk.
    """
    work = partial(
        shrink,
        source=args.source,
        target=args.target,
        short_side=args.short_side,
        fps=args.fps,
    )
    missing = [name for name in names if not (args.target / name).exists()]
    sample = missing[:: max(1, len(missing) // SAMPLE)][:SAMPLE]
    chosen = set(sample)
    rest = [name for name in names if name not in chosen]
    failed: dict[str, str] = {}
    with tqdm(total=len(names), unit='video') as bar:
        for part in (sample, rest):
            faults = try_videos(work, part, args.workers, args.timeout)
            for name, fault in zip(part, faults):
                if fault is not None:
                    failed[name] = fault
                bar.update()
            if part is sample and sample:
                tqdm.write(check_space(args, [n for n in missing if n not in chosen]))
    return failed


def check_space(args: argparse.Namespace, left: Sequence[str]) -> str:
    """Estimate the space for the remaining results, and return it as a message.

    Raises:
        ConfigError: there is less free space.
    """
    made = [path for path in args.target.rglob('*') if path.is_file()]
    sources = [args.source / path.relative_to(args.target) for path in made]
    before = size(path for path in sources if path.is_file())
    if not before:
        return 'the space needed is unknown: no video could be encoded yet'
    share = size(made) / before
    needed = share * size(args.source / name for name in left)
    free = shutil.disk_usage(args.target).free
    text = (
        f'{len(left)} more videos take about {needed / 1e9:.2f} GB, since those so far '
        f'became {share:.0%} of their sources; {free / 1e9:.2f} GB are free'
    )
    if needed > free:
        raise ConfigError(
            f'{args.target}: {text}. Free some space, or choose a smaller --short-side '
            f'or --fps; finished videos are kept, and the same command continues'
        )
    return text


def size(paths: Sequence[Path] | Iterator[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        check_args(args)
        paths = [Path(path) for path in list_videos(args.source)]
        names = [str(path.relative_to(args.source)) for path in paths]
        args.target.mkdir(parents=True, exist_ok=True)
        with locked(args.target):
            remove_parts(args.target)
            try:
                failed = shrink_all(args, names)
            finally:
                remove_parts(args.target)
    except (ConfigError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    report(args, names, failed)
    return 1 if failed else 0


def report(
    args: argparse.Namespace, names: Sequence[str], failed: dict[str, str]
) -> None:
    """Print which videos were made and which failed."""
    rows = [f'{args.source / name}\t{cause}' for name, cause in failed.items()]
    for row in rows:
        print(row)
    if args.failed:
        args.failed.write_text(''.join(f'{row}\n' for row in rows), 'utf-8')
    made = [name for name in names if name not in failed]
    old, new = (
        size(folder / name for name in made) for folder in (args.source, args.target)
    )
    print(
        f'{len(made)} of {len(names)} videos are in {args.target}: {new / 1e6:.1f} MB '
        f'instead of {old / 1e6:.1f} MB'
    )
    renamed = {
        Path(name).suffix
        for name in made
        if container_of(name) == 'mp4' and not name.lower().endswith(('.mp4', '.m4v'))
    }
    if renamed:
        print(f'files named {", ".join(sorted(renamed))} have MP4 content')


if __name__ == '__main__':
    sys.exit(main())
