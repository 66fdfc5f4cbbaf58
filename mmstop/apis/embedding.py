"""Keeping an index of videos up to date, in one process or in many."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Union

from mmengine.dist import all_gather_object, broadcast_object_list, get_dist_info

from .index import EXACT, Source, VideoIndex
from .reading import list_videos
from .video_clip import VideoCLIP

__all__ = ['Update', 'update_index']


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

    Every batch is kept as soon as it is done. In a process group each process takes its
    share, into a file of its own beside the index, ``INDEX.part0`` and so on, which the
    first process merges at the end, or at the start of the next call if this one is
    killed. The processes must see the same files under the same paths.

    Args:
        sources: files, folders or patterns, as in :func:`list_videos`. Videos from
            elsewhere stay in the index.
        out: the index; made if need be.
        batch_size: videos at a time.
        num_workers: processes that read ahead, for each process.
        progress: show a bar on stderr, if that is a terminal.
        exact: number of videos beyond which a faster, approximate search is prepared.

    Raises:
        FileNotFoundError: a source gives no video.
        ValueError: the index is another model's, or no index.
    """
    rank, world = get_dist_info()
    plans = [_plan(clip, sources, out) if rank == 0 else None]
    broadcast_object_list(plans)
    todo, forgotten = plans[0]  # type: ignore[misc]
    share = list(todo)[rank::world]
    errors: dict[str, str] = {}
    own = out if world == 1 else f'{out}.part{rank}'
    with VideoIndex(own, clip.identity) as index:
        for batch in clip.stream(share, batch_size, num_workers, progress and not rank):
            read = [share[i] for i in batch.indices]
            index.add({path: todo[path] for path in read}, batch.embeddings)
            errors.update({share[i]: why for i, why in batch.errors.items()})
    errors = {p: why for part in all_gather_object(errors) for p, why in part.items()}
    counts = [_finish(clip, out, errors, exact) if rank == 0 else None]
    broadcast_object_list(counts)
    return Update(counts[0], len(todo) - len(errors), forgotten, errors)  # type: ignore[arg-type]


def _plan(
    clip: VideoCLIP, sources: Union[str, os.PathLike, Sequence], out: os.PathLike | str
) -> Plan:
    """Compare disk and index, and bring the index to where an earlier call was."""
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    paths = [os.path.abspath(path) for path in list_videos(sources)]
    found = {path: Source.of(path) for path in paths}
    folders = [Path(s).absolute() for s in sources if os.path.isdir(s)]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with VideoIndex(out, clip.identity) as index:
        _merge_parts(index)
        known = index.sources()
        gone = [
            path
            for path in known.keys() - found.keys()
            if any(folder in Path(path).parents for folder in folders)
        ]
        index.remove(gone)
    todo = {path: source for path, source in found.items() if known.get(path) != source}
    return Plan(todo, len(gone))


def _finish(
    clip: VideoCLIP, out: Union[str, os.PathLike], unread: Iterable[str], exact: int
) -> int:
    """Bring everything together and return how many videos there are."""
    with VideoIndex(out, clip.identity) as index:
        _merge_parts(index)
        index.remove(unread)  # what was embedded of them is of an older file
        index.build_inverted(exact)
        return len(index)


def _merge_parts(index: VideoIndex) -> None:
    for path in sorted(index.path.parent.iterdir()):
        name, dot, rank = path.name.rpartition('.part')
        if name == index.path.name and dot and rank.isdigit():
            index.merge(path)
