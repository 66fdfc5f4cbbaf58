"""Find your own clips, their classes and captions, and check what can be used.

Names are paths below the folder of the clips, with slashes. Every fault is an
``AnnotationError`` or a ``FileNotFoundError`` that names the file.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from converter import VideoFolder
from official_files import Captions, check_records, clean, read_csv
from tqdm import tqdm

from mmstop.apis import list_videos
from mmstop.apis.sandbox import TIMEOUT, try_videos
from mmstop.datasets import AnnotationError, check_captions, read_json
from mmstop.datasets.loading import check_video
from mmstop.errors import short

SPLITS = ('train', 'val', 'test')


# --- What there is ------------------------------------------------------------------


def find_clips(folder: Path) -> list[str]:
    """List the videos below a folder by their paths in it.

    Raises:
        FileNotFoundError: the folder does not exist or holds no video.
        AnnotationError: a name cannot be written in a list.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: there is no such folder')
    names = [Path(path).relative_to(folder).as_posix() for path in list_videos(folder)]
    for name in names:
        unlike = {'\n', '\r'} & {*name} or name != name.strip()
        if unlike or any('\ud800' <= char <= '\udfff' for char in name):
            raise AnnotationError(
                f'{folder}: {short(name)} begins or ends with a blank, has a line end '
                f'or is not UTF-8, so no list can name it; rename it'
            )
    return names


def given_split(names: Iterable[str], folder: Path) -> bool:
    """Tell whether the folder holds only folders named after splits.

    Raises:
        AnnotationError: it does, but train or val is missing.
    """
    tops = {name.partition('/')[0] for name in names}
    if len(tops) < 2 or not tops.issubset(SPLITS):
        return False
    if missing := {'train', 'val'} - tops:
        raise AnnotationError(
            f'{folder}: has the folders {" and ".join(sorted(tops))}, expected train '
            f'and val; add {missing.pop()}, or rename the other one to it'
        )
    return True


def classes_of(names: Iterable[str], folder: Path, given: bool) -> dict[str, str]:
    """Return the class of each clip: the folder directly below the split or the root.

    Raises:
        AnnotationError: a clip is not in a class folder.
    """
    classes = {}
    for name in names:
        _, *inner = name.split('/') if given else ('', *name.split('/'))
        if len(inner) < 2:
            raise AnnotationError(
                f'{folder / name} is in no folder of a class; move it to one that is '
                f'named after its class, or give --captions'
            )
        classes[name] = inner[0]
    return classes


def empty_folders(names: Iterable[str], folder: Path, given: bool) -> list[str]:
    """List the class folders that hold no clip."""
    depth = 2 if given else 1
    full = {tuple(name.split('/')[:depth]) for name in names}
    found = (path.relative_to(folder) for path in folder.glob('/'.join(['*'] * depth)))
    return sorted(
        path.as_posix()
        for path in found
        if (folder / path).is_dir()
        and path.parts not in full
        and not path.name.startswith('.')
    )


def read_captions(path: Path) -> Captions:
    """Read captions by video, from CSV or JSON.

    Raises:
        FileNotFoundError: the file does not exist.
        AnnotationError: the file or an entry is invalid.
    """
    fields = ('video', 'caption')
    if path.suffix.lower() != '.json':
        if not path.is_file():
            raise FileNotFoundError(f'{path}: there is no such file')
        content = read_csv(path, None, fields)
    else:
        content = read_json(path)
    if isinstance(content, list):
        check_records(content, dict.fromkeys(fields, str), str(path))
        captions = defaultdict(list)
        for record in content:
            captions[record['video']].append(record['caption'])
        content = dict(captions)
    elif isinstance(content, dict):
        content = {
            video: [texts] if isinstance(texts, str) else texts
            for video, texts in content.items()
        }
    check_captions(content, path)
    return {video: [*map(clean, texts)] for video, texts in content.items()}


def locate(captions: Captions, path: Path, folder: Path) -> tuple[Captions, list[str]]:
    """Return the captions by clip, and the videos that match no clip in the folder.

    Args:
        path: where the captions come from.

    Raises:
        AnnotationError: no clip is found, or two videos match the same clip.
    """
    clips, on_disk = set(find_clips(folder)), VideoFolder(folder)
    found: Captions = {}
    missing = []
    for video, texts in captions.items():
        name = on_disk.find(video)
        if name is None or name not in clips:
            missing.append(video)
        elif name in found:
            raise AnnotationError(
                f'{path}: {short(video)} and another video are one file, '
                f'{folder / name}; join their captions'
            )
        else:
            found[name] = texts
    if not found:
        raise AnnotationError(
            f'{path}: none of its videos, such as {short(missing[0])}, is in '
            f'{folder}; they are paths below that folder'
        )
    return found, missing


# --- What can be used ---------------------------------------------------------------


def find_unreadable(names: list[str], folder: Path, workers: int) -> dict[str, str]:
    """Decode a few frames of each clip; return unreadable clip -> reason."""
    paths = [str(folder / name) for name in names]
    check = partial(check_video, full=False)
    faults = try_videos(check, paths, workers, TIMEOUT)
    tried = tqdm(zip(names, faults), total=len(names), unit='video')
    return {name: fault for name, fault in tried if fault}


def find_copies(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Find identical files; return each copy -> the first file with its content."""
    sizes = defaultdict(list)
    for name in names:
        sizes[(folder / name).stat().st_size].append(name)
    first: dict[bytes, str] = {}
    copies = {}
    for name in (name for alike in sizes.values() if len(alike) > 1 for name in alike):
        content = hashlib.sha256((folder / name).read_bytes()).digest()
        if first.setdefault(content, name) != name:
            copies[name] = first[content]
    return copies


def find_unusable(
    groups: Mapping[str, object], folder: Path, workers: int
) -> dict[str, str]:
    """Return why each unusable clip is left out, by name.

    Args:
        groups: by name, what clips with the same content must have in common.

    Raises:
        AnnotationError: clips have the same content but not the same class or split.
    """
    unusable = find_unreadable([*groups], folder, workers)
    readable = [name for name in groups if name not in unusable]
    for name, original in find_copies(readable, folder).items():
        if groups[name] != groups[original]:
            raise AnnotationError(
                f'{folder}: {short(original)} and {short(name)} have the same '
                f'content but another class or split; remove one of them'
            )
        unusable[name] = f'it has the content of {original}'
    return unusable
