"""Keeping an index of videos up to date, in one process or in many."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Union

import numpy as np
from mmengine.dist import all_gather_object, broadcast_object_list, get_dist_info

from .index import EXACT, Source, VideoIndex
from .reading import absolute, list_videos, videos_below
from .video_clip import VideoCLIP

__all__ = ['Update', 'update_index']

FAULTS = (OSError, ValueError)  # of the sources, the index and the disk


class Update(NamedTuple):
    """What an update of an index did."""

    videos: int  # in the index now
    embedded: int  # of them, the new and the changed ones
    forgotten: int  # that are no longer on disk
    errors: dict[str, str]  # path -> why it cannot be read


class Plan(NamedTuple):
    """What all processes of an update have to know."""

    todo: dict[str, Source]
    forgotten: int
    errors: dict[str, str]  # of files that are not even opened


class Share(NamedTuple):
    """What one process has embedded of a batch."""

    paths: list[str]
    embeddings: np.ndarray  # (n, E), float32
    errors: dict[str, str]


def update_index(
    clip: VideoCLIP,
    sources: Union[str, os.PathLike, Sequence],
    out: Union[str, os.PathLike],
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = False,
    exact: int = EXACT,
) -> Update:
    """Embed what is new or changed, and forget what is gone from the folders.

    Every batch is kept as soon as it is done. In a process group each process embeds
    its share and the first one writes; the processes must see the same files under the
    same paths. Several calls may update one index at once.

    Args:
        sources: files, folders or patterns, as in :func:`list_videos`. Videos from
            elsewhere stay in the index.
        out: the index; made if need be.
        batch_size: videos at a time.
        num_workers: processes that read ahead, for each process.
        progress: show a bar on stderr, if that is a terminal.
        exact: number of videos beyond which a faster, approximate search is prepared.

    Raises:
        FileNotFoundError: a source gives no video, and the index has none of it.
        ValueError: the index is another model's, or no index.
        OSError: the disk is full, or the index is locked or cannot be written to.
    """
    rank, world = get_dist_info()
    todo, forgotten, errors = _by_first(lambda: _plan(clip, sources, out))
    shares: Iterator[Any] = _embed(
        clip, list(todo)[rank::world], batch_size, num_workers, progress and not rank
    )
    embedded = 0
    with VideoIndex(out, clip.identity) if rank == 0 else nullcontext() as index:
        while any(parts := all_gather_object(next(shares, None))):
            for part in filter(None, parts):
                if isinstance(part, Exception):
                    raise part
                embedded += len(part.paths)
                errors.update(part.errors)
            if index is not None:
                try:
                    for part in filter(None, parts):
                        index.add({p: todo[p] for p in part.paths}, part.embeddings)
                except FAULTS as error:  # which the others hear of in the next round
                    shares = iter([error])
        videos = _by_first(lambda: _finish(index, errors, exact))
    return Update(videos, embedded, forgotten, errors)


def _by_first(work: Callable[[], Any]) -> Any:
    """Let the first process do something, and return its result in all of them.

    What it raises all of them raise, for none is to wait for one that has ended.
    """
    results: list[Any] = [None]
    if get_dist_info()[0] == 0:
        try:
            results = [work()]
        except FAULTS as error:
            results = [error]
    broadcast_object_list(results)
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _plan(
    clip: VideoCLIP, sources: Union[str, os.PathLike, Sequence], out: os.PathLike | str
) -> Plan:
    """Compare disk and index, and forget what is gone."""
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    folders = {absolute(s): os.fspath(s) for s in sources if os.path.isdir(s)}
    below = {folder: videos_below(folder) for folder in folders}
    empty = [folder for folder, videos in below.items() if not videos]
    paths = [
        absolute(p) for s in sources if not os.path.isdir(s) for p in list_videos(s)
    ]
    if empty and not os.path.exists(out):
        list_videos(folders[empty[0]])  # which says that it is empty
    found, errors = _look(
        path for videos in (paths, *below.values()) for path in videos
    )
    with VideoIndex(out, clip.identity) as index:
        known = index.sources()
        for folder in empty:
            if not any(map(_is_below(folder), known)):
                list_videos(folders[folder])
        inside = [_is_below(folder) for folder in folders]
        gone = [
            path
            for path in known.keys() - found.keys()
            if any(is_inside(path) for is_inside in inside)
        ]
        index.remove(gone)
    todo = {path: source for path, source in found.items() if known.get(path) != source}
    return Plan(todo, len(gone), errors)


def _is_below(folder: str) -> Callable[[str], bool]:
    return lambda path: path.startswith(os.path.join(folder, ''))


def _look(paths: Iterable[str]) -> tuple[dict[str, Source], dict[str, str]]:
    """Return what can be known of files, and why others cannot be in an index."""
    found, errors = {}, {}
    for path in paths:
        try:
            path.encode()
            found[path] = Source.of(path)
        except UnicodeEncodeError:
            errors[path] = 'its name is not UTF-8; rename it'
        except OSError as error:  # gone since it was listed
            errors[path] = str(error.strerror)
    return found, errors


def _embed(
    clip: VideoCLIP, paths: list[str], batch_size: int, num_workers: int, progress: bool
) -> Iterator[Share]:
    for batch in clip.stream(paths, batch_size, num_workers, progress):
        read, embeddings = [paths[i] for i in batch.indices], batch.embeddings
        sound = np.isfinite(embeddings).all(1)
        errors = {paths[i]: why for i, why in batch.errors.items()}
        for path, is_sound in zip(read, sound):
            if not is_sound:
                errors[path] = 'the model makes no finite embedding of it'
        yield Share([p for p in read if p not in errors], embeddings[sound], errors)


def _finish(index: Any, errors: dict[str, str], exact: int) -> int:
    """Bring the index into order and return how many videos there are."""
    # What was embedded of them is of an older file.
    unread = errors.keys() & index.sources().keys()
    if unread:
        index.remove(unread)
    index.compact()
    index.build_inverted(exact)
    return len(index)
