"""Tell which video ended a data worker, with its decoder or for want of memory.

PyTorch knows no more than the worker's process. So each worker notes its video in
memory that it shares with the process that forked it.
"""

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import get_worker_info

from .videos import VideoError

__all__ = ['noted', 'plain_worker_errors']

SLOTS, SIZE = 4096, 1024  # processes, and bytes for each
_notes = mmap.mmap(-1, SLOTS * SIZE)


@contextmanager
def noted(video: str) -> Iterator[None]:
    """Note, in a data worker, what it is reading."""
    if get_worker_info() is None:
        yield
        return
    place = _place(os.getpid())
    text = f'{os.getpid()} {video}'.encode(errors='backslashreplace')
    _notes[place : place + SIZE] = text[:SIZE].ljust(SIZE, b'\0')
    try:
        yield
    finally:
        _notes[place] = 0


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Say which video ended a data worker, in one line.

    Of a worker that was killed only one that was forked can be told, as MMEngine starts
    them by default.

    Raises:
        VideoError: instead of PyTorch's error, where a video is at fault.
    """
    try:
        yield
    except VideoError as error:  # PyTorch puts the worker's stack before the message
        raise VideoError(str(error).rpartition('VideoError: ')[2].strip()) from error
    except RuntimeError as error:
        found = re.match(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)', str(error))
        pids = map(int, found[1].split(',')) if found else ()
        videos = [video for pid in pids if (video := _note_of(pid))]
        if not videos:
            raise
        raise VideoError(
            f'{str(error).strip()} while it was reading {" and ".join(videos)}. Take '
            f'it out of the annotation file; tools/analysis/check_videos.py finds all '
            f'such videos'
        ) from error


def _note_of(pid: int) -> str:
    place = _place(pid)
    note = _notes[place : place + SIZE].rstrip(b'\0').decode(errors='replace')
    owner, _, video = note.partition(' ')
    return video if owner == str(pid) else ''


def _place(pid: int) -> int:
    return pid % SLOTS * SIZE
