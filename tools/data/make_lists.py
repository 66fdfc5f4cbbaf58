"""Make the lists of a data set from your own clips, and check the clips.

Clips with labels are in folders that are named after the classes:

    data/mine/opening a door/001.mp4

    python tools/data/make_lists.py data/mine

writes train.txt and val.txt, with a path and a label on each line, and classes.txt, a
name on each line in label order. Clips with captions may be anywhere below the folder:

    python tools/data/make_lists.py data/mine --captions captions.csv

writes train.json and val.json in the format of retrieval data sets. The captions are a
CSV file with the columns video and caption, or a JSON file: {"video": "caption", ...},
{"video": ["caption", ...], ...} or [{"video": ..., "caption": ...}, ...]. A video is a
path below the folder, with or without the extension.

A share of each class is held out for validation. It depends only on the seed and the
names, so the same command gives the same lists. If the folder holds only the folders
train and val, and optionally test, these are the splits.

Clips that cannot be decoded, duplicates of other clips and captions without a clip are
left out and reported. The exit status is then 1; it is 2 if there was an error and
nothing was written.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from converter import write_texts
from own_clips import (
    SPLITS,
    classes_of,
    empty_folders,
    find_clips,
    find_unusable,
    given_split,
    locate,
    read_captions,
)

from mmstop.datasets import AnnotationError, load_classes
from mmstop.errors import ConfigError, short
from mmstop.text import printable

Parts = dict[str, list[str]]  # split -> names, which are paths below the folder


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('folder', type=Path, help='folder of the clips')
    add('--captions', type=Path, metavar='FILE', help='CSV or JSON file of captions')
    add('--out', type=Path, help='folder to write the lists into (that of the clips)')
    add('--val', type=float, default=0.2, help='share for validation (%(default)s)')
    add('--seed', type=int, default=0, help='of the split (%(default)s)')
    add('--workers', type=int, default=os.cpu_count(), help='processes that decode')
    args = parser.parse_args(argv)
    if not 0 < args.val < 1:
        parser.error(f'--val {args.val:g}: it is more than 0 and less than 1')
    if args.workers < 1:
        parser.error(f'--workers {args.workers}: it is at least 1')
    args.out = args.out or args.folder
    return args


def rank(salt: int | str, name: str) -> bytes:
    """Place a name in a random order that other names do not change."""
    return hashlib.sha256(f'{salt} {name}'.encode()).digest()


def split(names: Iterable[str], given: bool, args: argparse.Namespace) -> Parts:
    """Use the given split, or hold out a share of the names for validation."""
    names = list(names)
    if given:
        return {
            part: chosen
            for part in SPLITS
            if (chosen := [n for n in names if n.partition('/')[0] == part])
        }

    num_val = min(max(1, round(args.val * len(names))), len(names) - 1)
    val = set(sorted(names, key=lambda name: rank(args.seed, name))[:num_val])
    return {
        'train': [n for n in names if n not in val],
        'val': [n for n in names if n in val],
    }


def split_classes(
    classes: Mapping[str, str], usable: list[str], given: bool, args: argparse.Namespace
) -> Parts:
    """Split each class separately.

    Raises:
        AnnotationError: a class has too few clips.
    """
    parts: Parts = defaultdict(list)
    for label in sorted({*classes.values()}):
        names = [name for name in usable if classes[name] == label]
        if not given and len(names) < 2:
            raise AnnotationError(
                f'{args.folder}: class {short(label)} has too few usable clips, '
                f'{len(names)}; expected at least 2, to train on and to validate; add '
                f'some or remove its folder'
            )
        divided = split(names, given, args)
        if 'train' not in divided:
            raise AnnotationError(
                f'{args.folder}: class {short(label)} has no usable clip in train; add '
                f'one or remove its folders'
            )
        for part, chosen in divided.items():
            parts[part] += chosen
    return {part: parts[part] for part in SPLITS if part in parts}


def write(files: Mapping[Path, str]) -> None:
    """Write all files or none, and never overwrite a different file.

    Raises:
        AnnotationError: a file exists and has different content.
    """
    for path, text in files.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise AnnotationError(
                f'{path}: exists and differs from what would be written; delete it if '
                f'it is no longer needed, or name another folder with --out'
            )
    write_texts(files)


def class_text(names: list[str], folder: Path) -> str:
    """Return the text of a class file.

    Raises:
        AnnotationError: the names would be read back differently.
    """
    text = ''.join(f'{name}\n' for name in names)
    with TemporaryDirectory() as place:
        path = Path(place, 'classes.txt')
        path.write_text(text, 'utf-8')
        if load_classes(str(path)) != load_classes(names):
            raise AnnotationError(
                f'{folder}: as a list, the names of the classes {short(names)} look '
                f'like ids and names; rename the folders'
            )
    return text


def make_labelled(args: argparse.Namespace) -> dict[str, str]:
    """Write the lists and classes of labelled clips; return omitted clip -> reason."""
    names = find_clips(args.folder)
    given = given_split(names, args.folder)
    classes = classes_of(names, args.folder, given)
    labels = {name: label for label, name in enumerate(sorted({*classes.values()}))}
    groups = {n: (classes[n], given and n.partition('/')[0]) for n in names}
    unusable = find_unusable(groups, args.folder, args.workers)
    usable = [name for name in names if name not in unusable]
    for name in empty_folders(names, args.folder, given):
        unusable[f'{name}/'] = 'a folder without a clip'
    parts = split_classes(classes, usable, given, args)
    files = {
        args.out / f'{part}.txt': ''.join(f'{n} {labels[classes[n]]}\n' for n in chosen)
        for part, chosen in parts.items()
    }
    class_file = args.out / 'classes.txt'
    write(files | {class_file: class_text([*labels], args.folder)})
    for part, chosen in parts.items():
        counts = Counter(classes[name] for name in chosen)
        few = min(labels, key=lambda name: counts[name])
        print(
            f'{args.out / part}.txt: {len(chosen):,} videos, {counts[few]:,} or more '
            f'of a class ({printable(few)})'
        )
    print(f'{class_file}: {len(labels):,} classes')
    return unusable


def make_captioned(args: argparse.Namespace) -> dict[str, str]:
    """Write the lists of clips with captions; return omitted clip -> reason."""
    captions, missing = locate(read_captions(args.captions), args.captions, args.folder)
    given = given_split(captions, args.folder)
    groups = {name: given and name.partition('/')[0] for name in captions}
    unusable = find_unusable(groups, args.folder, args.workers)
    usable = [name for name in captions if name not in unusable]
    if len(usable) < 2:
        raise AnnotationError(
            f'{args.folder}: too few usable clips have captions, {len(usable)}; '
            f'expected at least 2; add some'
        )
    parts = split(usable, given, args)
    chosen = {part: {n: captions[n] for n in names} for part, names in parts.items()}
    write(
        {
            args.out / f'{part}.json': json.dumps(content, indent=0) + '\n'
            for part, content in chosen.items()
        }
    )
    for part, content in chosen.items():
        count = sum(map(len, content.values()))
        print(
            f'{args.out / part}.json: {len(content):,} videos with {count:,} captions'
        )
    return unusable | dict.fromkeys(missing, f'there is no such clip in {args.folder}')


def main(argv: Sequence[str] | None = None) -> int:
    """Make lists as specified on the command line."""
    args = parse_args(argv)
    try:
        unusable = make_captioned(args) if args.captions else make_labelled(args)
    except (AnnotationError, ConfigError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    for name, reason in unusable.items():
        print(printable(f'left out  {name}: {reason}'))
    return 1 if unusable else 0


if __name__ == '__main__':
    sys.exit(main())
