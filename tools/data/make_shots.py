"""Make the lists of the few-shot and the base-to-novel protocol (docs/protocols.md).

Draw them from a data set's own lists:

    python tools/data/make_shots.py data/hmdb51/hmdb51_train_split_1_videos.txt \\
        data/hmdb51/hmdb51_val_split_1_videos.txt --classes hmdb51

or take the draws that ViFi-CLIP publishes, from your copy of its repository:

    python tools/data/make_shots.py data/hmdb51/hmdb51_train_split_1_videos.txt \\
        data/hmdb51/hmdb51_val_split_1_videos.txt --classes hmdb51 \\
        --vifi ViFi-CLIP/datasets_splits hmdb

Both write, into the folder shots (or vifi) beside the training list:

    few_shot_K_SEED.txt                        K videos of each class, to train on
    base_train_SEED.txt                        16 videos of each base class, to train on
    base_val.txt, novel_val.txt                the test videos of both halves
    base_classes.txt, novel_classes.txt        their classes in label order

The rule is fixed, so everybody draws the same lists. The videos of a class are ranked
by the SHA-256 of 'SEED NAME', with the name as in the training list, and the first K
are taken. So the draws of a seed are nested: 4 shots are the 2 shots and 2 more. With
--independent, 'SEED K NAME' is hashed, and draws of different K have nothing to do with
each other. Lines keep the order of the training list. Base are the more frequent half
of the classes in the training list, and one more than half of an odd number; of classes
that are equally frequent, those with the lower labels. Each half is numbered from 0 in
the order of its original labels.

ViFi-CLIP's lists name files without folders, some with another extension, and number
each half in their own way. A video of theirs is the one of the same name in your lists,
from which its path and its label come. There is one draw of each K, which becomes seed
0; the base lists s1, s2 and s3 become seeds 0, 1 and 2.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from make_lists import class_text, rank, write
from vifi_lists import NAMES, Video, take

from mmstop.datasets import AnnotationError, load_classes, load_labels
from mmstop.errors import ConfigError, short

BASE_SHOTS = 16
SHOTS = (2, 4, 8, 16)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('train', type=Path, help='the training list')
    add('test', type=Path, help='the list to test on')
    add('--classes', required=True, help="file of classes or a packaged list's name")
    add('--shots', nargs='+', type=int, default=SHOTS, help='videos a class')
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    add('--independent', action='store_true', help='draws of different K, not nested')
    add(
        '--vifi',
        nargs=2,
        metavar=('FOLDER', 'NAME'),
        help=f'datasets_splits of ViFi-CLIP, and {", ".join(NAMES)}',
    )
    add(
        '--drop-missing',
        action='store_true',
        help="leave out ViFi-CLIP's videos that are not in your lists",
    )
    add('--out', type=Path, help='folder to write into')
    args = parser.parse_args(argv)
    if min(args.shots) < 1:
        parser.error(f'--shots {min(args.shots)}: it is at least 1')
    if args.vifi and args.vifi[1] not in NAMES:
        parser.error(f'--vifi {args.vifi[1]}: it is one of {", ".join(NAMES)}')
    folder = 'vifi' if args.vifi else 'shots'
    args.out = args.out or args.train.parent / folder
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        files = make(args)
        write(files)
    except (AnnotationError, ConfigError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    for path, text in files.items():
        print(f'{path}: {text.count(chr(10)):,} lines')
    return 0


def make(args: argparse.Namespace) -> dict[Path, str]:
    """Return the text of every file.

    Raises:
        AnnotationError: a list is invalid, a class has too few videos, or a list of
            ViFi-CLIP's does not fit the others.
    """
    names = load_classes(args.classes)
    train, test = (read(path, len(names)) for path in (args.train, args.test))
    if args.vifi:
        parts, halves = take(args, train, test)
    else:
        halves = split_classes(train, len(names))
        parts = draw(args, train, halves[0])
        parts |= {'base_val': test, 'novel_val': test}
    numbers: dict[str, Mapping[int, int]] = {
        half: {label: i for i, label in enumerate(labels)}
        for half, labels in zip(('base', 'novel'), halves)
    }
    files = {}
    for part, videos in parts.items():
        new = numbers.get(part.partition('_')[0], {i: i for i in range(len(names))})
        files[args.out / f'{part}.txt'] = ''.join(
            f'{video.name} {new[video.label]}\n'
            for video in videos
            if video.label in new
        )
    for half, labels in zip(('base', 'novel'), halves):
        chosen = [names[label] for label in labels]
        files[args.out / f'{half}_classes.txt'] = class_text(chosen, args.out)
    return files


def read(path: Path, num_classes: int) -> list[Video]:
    """Read a list whose labels are below ``num_classes``."""
    videos = [Video(name, label) for name, label, _ in load_labels(path)]
    for video in videos:
        if video.label >= num_classes:
            raise AnnotationError(
                f'{path}: {short(video.name)} has the label {video.label}, but there '
                f'are {num_classes} classes; give the classes of this list'
            )
    return videos


# --- Drawing ------------------------------------------------------------------------


def split_classes(
    train: Sequence[Video], num_classes: int
) -> tuple[list[int], list[int]]:
    """Return the labels of the base and of the novel classes, in order."""
    counts = Counter(video.label for video in train)
    ranked = sorted(range(num_classes), key=lambda label: (-counts[label], label))
    num_base = (num_classes + 1) // 2
    return sorted(ranked[:num_base]), sorted(ranked[num_base:])


def draw(
    args: argparse.Namespace, train: Sequence[Video], base: Sequence[int]
) -> dict[str, list[Video]]:
    """Draw the videos of every list to train on."""
    labels = sorted({video.label for video in train})
    parts = {
        f'few_shot_{shots}_{seed}': choose(args, train, labels, shots, seed)
        for shots in args.shots
        for seed in args.seeds
    }
    return parts | {
        f'base_train_{seed}': choose(args, train, base, BASE_SHOTS, seed)
        for seed in args.seeds
    }


def choose(
    args: argparse.Namespace,
    train: Sequence[Video],
    labels: Sequence[int],
    shots: int,
    seed: int,
) -> list[Video]:
    """Draw as many videos of each of these classes.

    Raises:
        AnnotationError: a class has too few.
    """
    salt = f'{seed} {shots}' if args.independent else f'{seed}'
    classes = defaultdict(list)
    for video in train:
        classes[video.label].append(video)
    chosen: set[Video] = set()
    for label in labels:
        if len(classes[label]) < shots:
            raise AnnotationError(
                f'{args.train}: class {label} has {len(classes[label])} videos, '
                f'{shots} are to be drawn; give less --shots, or a longer list'
            )
        ranked = sorted(classes[label], key=lambda video: rank(salt, video.name))
        chosen.update(ranked[:shots])
    return [video for video in train if video in chosen]


if __name__ == '__main__':
    sys.exit(main())
