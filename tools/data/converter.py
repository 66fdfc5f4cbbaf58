"""Code shared by the converters of retrieval annotations.

A converter consists of a ``read(args)`` that turns the official files of a dataset into
``Split``s, and a ``ConverterParser`` that names these files. ``run`` does the rest: it
checks all splits, looks for the videos, writes one file per split in MMAction2's
format, ``{"video7.mp4": ["a caption", ...], ...}``, and prints a report. If anything is
wrong, nothing is written.
"""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from official_files import Captions, clean, stem

from mmstop.datasets import AnnotationError
from mmstop.errors import short

NUM_NAMED = 5  # missing videos listed in a report


@dataclass(frozen=True)
class Published:
    """The published size of a split, with notes."""

    videos: int | None  # None if not published
    captions: int | None
    source: str
    note: str = ''  # why other sizes are in use

    def __str__(self) -> str:
        return f'{size(self.videos, self.captions)} ({self.source})'


@dataclass(frozen=True)
class Split:
    """One annotation file to be written as ``<name>.json``."""

    name: str
    captions: Captions  # by video file name, relative to the videos folder
    source: Path  # the file that lists the videos, for messages
    published: Published

    @property
    def kind(self) -> str:
        """The kind of split: train, val or test."""
        return self.name.partition('_')[0]


class ConverterParser(argparse.ArgumentParser):
    """The command line of a converter; input files have defaults under the root."""

    def __init__(self, doc: str, name: str) -> None:
        super().__init__(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.inputs: dict[str, tuple[str, str, bool]] = {}
        root = Path('data') / 'video_retrieval' / name
        self.add_argument(
            '--root',
            type=Path,
            default=root,
            help=f'folder of the dataset, where the files are written ({root})',
        )
        self.add_argument(
            '--videos', type=Path, help='folder of the videos (videos under the root)'
        )
        self.add_argument(
            '--drop-missing',
            action='store_true',
            help='leave out the videos that are not in the videos folder',
        )

    def add_input(self, flag: str, default: str, optional: bool = False) -> None:
        """Add an input file, by default at ``default`` under the root.

        Args:
            optional: let ``args.<flag>`` be None if the default file does not exist.
        """
        absent = ', if it exists' if optional else ''
        text = f'file to read ({default} under the root{absent})'
        self.add_argument(flag, type=Path, metavar='FILE', help=text)
        self.inputs[flag.lstrip('-').replace('-', '_')] = (flag, default, optional)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse the command line and fill in the paths of the files.

        Raises:
            AnnotationError: an input file does not exist.
        """
        args = self.parse_args(argv)
        args.videos = args.videos or args.root / 'videos'
        for name, (flag, default, optional) in self.inputs.items():
            given = getattr(args, name)
            path = given or args.root / default
            if not path.is_file():
                if given or not optional:
                    raise AnnotationError(
                        f'{path}: there is no such file; download it as described in '
                        f'--help, or set its path with {flag}'
                    )
                path = None
            setattr(args, name, path)
        return args


def size(videos: int | None, captions: int | None) -> str:
    """Format as '1,200 videos, 48,774 captions', leaving out None."""
    counts = {'videos': videos, 'captions': captions}
    return ', '.join(f'{n:,} {what}' for what, n in counts.items() if n is not None)


class VideoFolder:
    """The videos on disk, found by name, or by stem if the extension differs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listed: dict[str, dict[str, str]] = {}  # folder -> stem or name -> name

    def find(self, name: str) -> str | None:
        """Return the name on disk, relative to the folder, or None."""
        parent, slash, base = name.rpartition('/')
        if parent not in self.listed:
            self.listed[parent] = self._list(self.path / parent)
        names = self.listed[parent]
        found = names.get(base) or names.get(stem(base))
        return found and f'{parent}{slash}{found}'

    @staticmethod
    def _list(folder: Path) -> dict[str, str]:
        # Of several files with the same stem, the first in alphabetical order counts.
        names = sorted(os.listdir(folder), reverse=True) if folder.is_dir() else []
        stems = {stem(name): name for name in names if stem(name) != name}
        return stems | {name: name for name in names}


@dataclass(frozen=True)
class _File:
    """A split, ready to be written."""

    split: Split
    path: Path
    captions: Captions
    missing: list[str]
    num_renamed: int  # videos with another extension on disk


def run(
    parser: ConverterParser,
    read: Callable[[argparse.Namespace], list[Split]],
    argv: Sequence[str] | None,
) -> int:
    """Convert a dataset and print a report.

    Returns:
        the exit status: 0, or 2 if there was an error and so nothing was written.
    """
    try:
        args = parser.parse(argv)
        files = _prepare(read(args), args)
        inputs = [getattr(args, name) for name in parser.inputs]
        _write({file.path: file.captions for file in files}, filter(None, inputs))
    except AnnotationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        place = error.filename or args.root  # a full disk names no file
        print(f'error: {place}: {error.strerror or error}', file=sys.stderr)
        return 2
    if not args.videos.is_dir():
        print(f'{args.videos} does not exist: the videos were not checked\n')
    print('\n\n'.join(_report(file, args) for file in files))
    return 0


def _prepare(splits: Sequence[Split], args: argparse.Namespace) -> list[_File]:
    _check_leaks(splits)
    if args.videos.is_dir():
        folder = VideoFolder(args.videos)
    elif args.drop_missing:
        raise AnnotationError(
            f'{args.videos}: there is no such folder, and --drop-missing would leave '
            f'out all videos; set the folder with --videos'
        )
    else:
        folder = None
    return [_locate(split, folder, args) for split in splits]


def _check_leaks(splits: Iterable[Split]) -> None:
    """Reject a video in two splits, unless both are training or both test splits."""
    first: dict[str, Split] = {}
    for split in splits:
        for video in map(stem, split.captions):
            other = first.setdefault(video, split)
            if other.kind != split.kind:
                raise AnnotationError(
                    f'{split.source}: {short(video)} is a video of {split.name} and, '
                    f'in {other.source}, of {other.name}; remove it from one of them'
                )


def _locate(
    split: Split, folder: VideoFolder | None, args: argparse.Namespace
) -> _File:
    """Replace each video's name by its name on disk."""
    captions: Captions = {}
    missing: list[str] = []
    renamed = 0
    for video, texts in split.captions.items():
        found = folder.find(video) if folder else video
        if found is None:
            missing.append(video)
            if args.drop_missing:
                continue
        name = found or video
        if name in captions:
            raise AnnotationError(
                f'{split.source}: {short(video)} and another video are the same file, '
                f'{args.videos / name}; join or remove one of them'
            )
        renamed += name != video
        captions[name] = [clean(text) for text in texts]
    if not captions:
        raise AnnotationError(
            f'{args.videos}: has none of the {len(missing):,} videos of {split.name}, '
            f'such as {short(missing[0])}; set another folder with --videos'
        )
    return _File(split, args.root / f'{split.name}.json', captions, missing, renamed)


def _write(files: Mapping[Path, Captions], inputs: Iterable[Path]) -> None:
    """Write all files or none, and never overwrite an input."""
    sources = {path.resolve() for path in inputs}
    for path in files:
        if path.resolve() in sources:
            raise AnnotationError(
                f'{path}: an input file that would be overwritten; move it to another '
                f'folder, such as annotations under the root'
            )
    texts = {path: json.dumps(files[path], indent=0) + '\n' for path in files}
    write_texts(texts)


def write_texts(files: Mapping[Path, str]) -> None:
    """Write all files or none, in UTF-8."""
    partials = {path.with_name(f'{path.name}.partial'): path for path in files}
    try:
        for partial, path in partials.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(files[path], 'utf-8')
        for partial, path in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def _report(file: _File, args: argparse.Namespace) -> str:
    videos = len(file.captions)
    captions = sum(map(len, file.captions.values()))
    published = file.split.published
    same = published.videos in (None, videos) and published.captions in (None, captions)
    lines = [str(file.path), f'  written    {size(videos, captions)}']
    if same:
        lines.append(f'  published  the same: {published}')
    else:
        found = size(videos, captions)
        lines.append(f'  published  DIFFERENT: expected {published},')
        lines.append(f'             found {found}')
    if args.videos.is_dir():
        lines += _report_missing(file, args)
    if published.note and (file.missing or not same):
        lines.append(textwrap.indent(textwrap.fill(published.note, 75), 13 * ' '))
    return '\n'.join(lines)


def _report_missing(file: _File, args: argparse.Namespace) -> list[str]:
    total = len(file.split.captions)
    lines = [f'  on disk    all {total:,} videos']
    if file.missing:
        names = ', '.join(file.missing[:NUM_NAMED])
        more = ', ...' if len(file.missing) > NUM_NAMED else ''
        fate = 'left out' if args.drop_missing else 'kept, see --drop-missing'
        lines = [
            f'  on disk    {len(file.missing):,} of {total:,} videos are missing from '
            f'{args.videos} ({fate}):',
            f'             {names}{more}',
        ]
    if file.num_renamed:
        lines.append(f'             with another extension there: {file.num_renamed:,}')
    return lines
