"""Report which video killed a data worker, by a decoder that crashes or hangs.

PyTorch reports only the worker's process id. So each worker notes its current video in
memory that it shares with the process that forked it.
"""

import mmap
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import get_worker_info

from mmstop.errors import VideoError

__all__ = ['guarded', 'plain_worker_errors']

WAIT = 5  # seconds; a signal arrives within milliseconds
SLOTS, SIZE = 4096, 1024  # number of processes, and bytes for each
_notes = mmap.mmap(-1, SLOTS * SIZE)


@contextmanager
def guarded(video: str, seconds: float) -> Iterator[None]:
    """In a data worker, note the video that it is reading, and limit the time.

    Where the time is over, the worker exits, since its decoder cannot be interrupted.
    """

    def give_up() -> None:
        print(
            f'error: {video} was not read within {seconds:g} s. Remove it from the '
            f'annotation file, or raise timeout if the disk is slow; '
            f'tools/analysis/check_videos.py finds all such videos',
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    if get_worker_info() is None:
        yield
        return
    place = _place(os.getpid())
    text = f'{os.getpid()} {video}'.encode(errors='backslashreplace')
    _notes[place : place + SIZE] = text[:SIZE].ljust(SIZE, b'\0')
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _notes[place] = 0


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Report in one line which video ended a data worker.

    For a killed worker this works only if it was forked, which is MMEngine's default.

    Raises:
        VideoError: instead of PyTorch's error, if a video is the cause.
    """
    try:
        with _named_deaths():
            yield
    except VideoError as error:  # PyTorch puts the worker's traceback first
        raise VideoError(str(error).rpartition('VideoError: ')[2].strip()) from error
    except RuntimeError as error:
        found = re.match(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)', str(error))
        pids = map(int, found[1].split(',')) if found else ()
        videos = [video for pid in pids if (video := _note_of(pid))]
        if not videos:
            raise
        raise VideoError(
            f'{str(error).strip()} while it was reading {" and ".join(videos)}. Remove '
            f'it from the annotation file; tools/analysis/check_videos.py finds all '
            f'such videos'
        ) from error


@contextmanager
def _named_deaths() -> Iterator[None]:
    """Give PyTorch time to name the worker that died while it handed over a batch.

    The main process may see the broken connection before the signal of the death, whose
    handler raises the RuntimeError that names the worker.
    """
    try:
        yield
    except (ConnectionError, EOFError):
        time.sleep(WAIT)
        raise


def _note_of(pid: int) -> str:
    place = _place(pid)
    note = _notes[place : place + SIZE].rstrip(b'\0').decode(errors='replace')
    owner, _, video = note.partition(' ')
    return video if owner == str(pid) else ''


def _place(pid: int) -> int:
    return pid % SLOTS * SIZE
