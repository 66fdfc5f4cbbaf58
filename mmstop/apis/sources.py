"""Find videos: files, folders, patterns, and frames in memory."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
from torch import Tensor

__all__ = [
    'SUFFIXES',
    'Video',
    'Videos',
    'absolute',
    'list_inputs',
    'list_videos',
    'videos_below',
]

Video = Union[str, os.PathLike, np.ndarray, Tensor]
Videos = Union[Video, Sequence[Video]]

SUFFIXES = set(
    '.3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv'.split()
)  # video files in a folder


def list_videos(sources: Union[str, os.PathLike, Sequence]) -> list[str]:
    """List files from sources: files, folders (searched recursively) and patterns.

    Links to files and folders are followed, even if they lead out of a source. Each
    folder is read once, under its real path if that is within the source.

    Args:
        sources: one or several; in patterns ``**`` matches any number of folders. A
            file is used whatever its name is; files in a folder must have a video
            suffix.
    Returns:
        paths, sorted within each source.

    Raises:
        FileNotFoundError: a source has no file.
        OSError: a folder cannot be listed.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    return [path for source in sources for path in _expand(os.fspath(source))]


def _expand(source: str) -> list[str]:
    if os.path.isfile(source):
        return [source]
    if os.path.isdir(source):
        paths = videos_below(source)
        what = f'a folder without a video ({", ".join(sorted(SUFFIXES))})'
    else:
        found = glob.glob(source, recursive=True)
        paths = sorted(path for path in found if os.path.isfile(path))
        what = 'neither a file nor a folder nor a pattern that matches any'
    if not paths:
        raise FileNotFoundError(f'{source!r} is {what}')
    return paths


def videos_below(folder: str) -> list[str]:
    """List the videos in a folder and its subfolders, sorted.

    Raises:
        OSError: one of the folders cannot be listed.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()  # links may form cycles
    tops = [folder]
    for top in tops:
        for root, folders, names in os.walk(top, onerror=_cannot_list):
            stat = os.stat(root)
            if (stat.st_dev, stat.st_ino) in seen:
                folders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            paths = [os.path.join(root, name) for name in names]
            found += [
                path
                for path in paths
                if os.path.splitext(path)[1].lower() in SUFFIXES
                and os.path.isfile(path)
            ]
            # Visit them after all folders that are reached without a link.
            inner = [os.path.join(root, name) for name in sorted(folders)]
            tops += [path for path in inner if os.path.islink(path)]
    return sorted(found)


def _cannot_list(error: OSError) -> None:
    raise OSError(
        f'{error.filename} cannot be listed: {error.strerror}; its videos would '
        f'count as deleted'
    )


def absolute(path: Union[str, os.PathLike]) -> str:
    """Return the unique name of a file or folder in an index.

    It has no ``..``. Links stay in it, unless a ``..`` follows one.
    """
    name = os.path.abspath(path)
    if '..' in Path(path).parts and not (
        os.path.exists(name) and os.path.samefile(name, path)
    ):
        return os.path.realpath(path)
    return name


def list_inputs(videos: Videos) -> list[Video]:
    """List files and arrays; a single one becomes a list of one."""
    listed: list[Video] = []
    several: Any = videos if isinstance(videos, (list, tuple)) else [videos]
    for video in several:
        if isinstance(video, (str, os.PathLike)):
            listed += list_videos(video)
        else:
            listed.append(video)
    return listed
