"""Find the videos of ViFi-CLIP's few-shot and base-to-novel lists in one's own lists.

Rasheed et al., Fine-tuned CLIP Models are Efficient Video Learners, CVPR 2023. Their
lists have no licence and are read from a copy of their repository.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Optional

from official_files import stem

from mmstop.datasets import AnnotationError, load_labels
from mmstop.errors import short

NAMES = 'hmdb', 'ucf', 'ssv2', 'k400'  # of their folders


class Video(NamedTuple):
    name: str  # as the list names it
    label: int


def take(
    args: argparse.Namespace, train: Sequence[Video], test: Sequence[Video]
) -> tuple[dict[str, list[Video]], tuple[list[int], list[int]]]:
    """Find the videos of ViFi-CLIP's lists in one's own.

    Returns:
        the videos by the name of the new list, and the labels of both halves.
    """
    folder, name = Path(args.vifi[0]), args.vifi[1]
    few = folder / f'{name}_splits'
    halves = folder / 'base2novel_splits' / f'{name}_splits'
    sources = {
        f'few_shot_{shots}_0': few / f'train1_few_shot_{shots}.txt'
        for shots in args.shots
        if name != 'k400'  # it has no few-shot lists
    }
    sources |= {
        f'base_train_{s - 1}': halves / f'fs_base_s{s}_train.txt' for s in (1, 2, 3)
    }
    drop = args.drop_missing
    find_train, find_test = finder(train, args.train), finder(test, args.test)
    parts = {part: match(path, find_train, drop) for part, path in sources.items()}
    labels = []
    for half in ('base', 'novel'):
        part = f'{half}_val'
        parts[part] = match(halves / f'{part}.txt', find_test, drop)
        labels.append(sorted({video.label for video in parts[part]}))
    shared = {*labels[0]} & {*labels[1]}
    trained = {v.label for s in range(3) for v in parts[f'base_train_{s}']}
    if shared or trained - {*labels[0]}:
        raise AnnotationError(
            f'{halves}: label {min(shared or trained - {*labels[0]})} of {args.test} '
            f'is in both halves; are these the lists of this data set?'
        )
    return parts, (labels[0], labels[1])


def finder(videos: Sequence[Video], path: Path) -> Callable[[str], Optional[Video]]:
    """Return a function that finds a video by its file's name without extension."""
    known: dict[str, Video] = {}
    twice = set()
    for video in videos:
        key = stem(PurePosixPath(video.name).name)
        if key in known:
            twice.add(key)
        known[key] = video

    def find(name: str) -> Optional[Video]:
        key = stem(PurePosixPath(name).name)
        if key in twice:
            raise AnnotationError(
                f'{short(name)} fits several videos of {path}; remove all but one'
            )
        return known.get(key)

    return find


def match(
    path: Path, find: Callable[[str], Optional[Video]], drop: bool
) -> list[Video]:
    """Find the videos of a list, whose own labels must stand for one label each.

    The class files of ViFi-CLIP swap names, so its numbers are compared and not used.

    Args:
        find: finds a video by its name.
        drop: leave out what it does not find.

    Raises:
        AnnotationError: a video is not there, or labels contradict each other.
    """
    videos: list[Video] = []
    forth: dict[int, Video] = {}
    back: dict[int, int] = {}
    missing = 0
    for name, label, line in load_labels(path):
        video = find(name)
        if video is None:
            if not drop:
                raise AnnotationError(
                    f'{path}, line {line}: {short(name)} is not in your list; give the '
                    f'one that it comes from, or leave it out with --drop-missing'
                )
            missing += 1
            continue
        one, other = forth.setdefault(label, video), back.setdefault(video.label, label)
        if one.label != video.label or other != label:
            raise AnnotationError(
                f'{path}, line {line}: {short(name)} has the label {label}, and its '
                f'class in your list, {video.label}, has another there; are these the '
                f'lists of this data set?'
            )
        videos.append(video)
    if missing:
        print(f'{path}: {missing:,} videos are not in your list and left out')
    return videos
