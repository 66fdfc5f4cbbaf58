"""Keep an index of videos up to date, in one or several processes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Union

import numpy as np
from mmengine.dist import all_gather_object, broadcast_object_list, get_dist_info

from .index import EXACT, Source, VideoIndex
from .sources import absolute, list_videos, videos_below
from .video_clip import VideoCLIP

__all__ = ['Update', 'update_index']

FAULTS = (OSError, ValueError)  # raised for the sources, the index or the disk


class Update(NamedTuple):
    """The result of an update of an index."""

    videos: int  # in the index now
    embedded: int  # new and changed videos among them
    forgotten: int  # videos removed because they are no longer on disk
    errors: dict[str, str]  # path -> why it cannot be read


class Plan(NamedTuple):
    """The plan that all processes of an update share."""

    todo: dict[str, Source]
    forgotten: int
    errors: dict[str, str]  # for files that are not even opened


class Share(NamedTuple):
    """The part of a batch that one process has embedded."""

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
    """Embed new and changed videos, and remove those that are gone from the folders.

    Each batch is saved as soon as it is done. In a process group, each process embeds
    its share and the first one writes. The processes must see the same files under the
    same paths. Several calls may update one index at the same time.

    Args:
        sources: files, folders or patterns, as in :func:`list_videos`. Videos from
            other places stay in the index.
        out: path of the index, which is created if it does not exist.
        batch_size: videos per batch.
        num_workers: reader processes for each process.
        progress: show a progress bar on stderr, if that is a terminal.
        exact: number of videos above which a faster, approximate search is prepared.

    Raises:
        FileNotFoundError: a source has no video, and the index has none from it.
        ValueError: the index belongs to another model, or is not an index.
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
                except FAULTS as error:  # the other processes get it in the next round
                    shares = iter([error])
        videos = _by_first(lambda: _finish(index, errors, exact))
    return Update(videos, embedded, forgotten, errors)


def _by_first(work: Callable[[], Any]) -> Any:
    """Call a function in the first process and return its result in all of them.

    If it raises, all processes raise the same error, so that none waits for another
    that has ended.
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
    """Compare disk and index, and remove videos that are gone."""
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    folders = {absolute(s): os.fspath(s) for s in sources if os.path.isdir(s)}
    below = {folder: videos_below(folder) for folder in folders}
    empty = [folder for folder, videos in below.items() if not videos]
    paths = [
        absolute(p) for s in sources if not os.path.isdir(s) for p in list_videos(s)
    ]
    if empty and not os.path.exists(out):
        list_videos(folders[empty[0]])  # raises the error for an empty folder
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
    """Return the sources of files, and why other files cannot be in an index."""
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
                errors[path] = 'the model gives no finite embedding for it'
        yield Share([p for p in read if p not in errors], embeddings[sound], errors)


def _finish(index: Any, errors: dict[str, str], exact: int) -> int:
    """Clean up the index and return its number of videos."""
    # Their embeddings come from older versions of the files.
    unread = errors.keys() & index.sources().keys()
    if unread:
        index.remove(unread)
    index.compact()
    index.build_inverted(exact)
    return len(index)
