"""Open video files with decord, refusing what is damaged."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

import decord
import numpy as np
from mmaction.datasets.transforms import DecordInit
from mmengine.fileio import get

from mmstop.errors import ConfigError, typed
from mmstop.registry import TRANSFORMS

from .containers import check_container, check_file

__all__ = ['CheckedDecordInit', 'VideoError', 'check_video', 'explain', 'with_suffix']

CHUNK = 32  # frames that check_video holds at a time
SAMPLE = 12  # frames that it looks at where it does not look at all


class VideoError(RuntimeError):
    """A video cannot be used; the text says which and why."""


@TRANSFORMS.register_module()
class CheckedDecordInit(DecordInit):
    """Open a video as MMAction2's ``DecordInit`` does, but no damaged one.

    A file that is missing, empty, no video or shorter than its header says is an error.
    So are frames that cannot be decoded, which decord otherwise replaces by the nearest
    that can: ``DecordDecode`` raises. Frames of another size than the first are scaled
    to it by decord. What the decoder under decord paints over where data are damaged,
    nobody tells; ``tools/analysis/check_videos.py --decode full`` finds it.

    Files on a disk are opened by name and not read into memory first, where decord 0.6
    crashes on damaged AVI files.

    Args:
        max_stale: how many frames of a clip decord may replace.
        **kwargs: those of ``DecordInit``: ``io_backend``, ``num_threads``, ...

    Raises:
        ConfigError: ``max_stale`` is negative.
        VideoError: on use, the video is at fault.
    """

    @typed
    def __init__(self, max_stale: int = 0, **kwargs: Any) -> None:
        if max_stale < 0:
            raise ConfigError(f'max_stale={max_stale}, expected at least 0')
        super().__init__(**kwargs)
        self.max_stale = max_stale

    def _get_video_reader(self, filename: str) -> decord.VideoReader:
        filename = with_suffix(filename)
        if self.io_backend == 'disk':
            return open_video(filename, self.num_threads, self.max_stale)
        content = get(filename, dict(backend=self.io_backend, **self.kwargs))
        with _as_video_error():
            check_container(io.BytesIO(content))
        return _read(io.BytesIO(content), self.num_threads, self.max_stale)


def with_suffix(filename: str) -> str:
    """Add the '.mp4' that MMAction2 lets annotation files leave out."""
    whole = Path(filename).suffix or os.path.exists(filename)
    return filename if whole else f'{filename}.mp4'


def open_video(
    filename: str, num_threads: int = 1, max_stale: int = 0
) -> decord.VideoReader:
    """Open a whole video file on a disk.

    Raises:
        VideoError: it is missing, no file, empty, cut short or no video.
    """
    with _as_video_error():
        check_file(filename)
    # FFmpeg takes what stands before a colon in a relative path for a protocol.
    return _read(os.path.abspath(filename), num_threads, max_stale)


@contextmanager
def _as_video_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise VideoError(str(error)) from None


def _read(
    source: Union[str, io.BytesIO], num_threads: int, max_stale: int
) -> decord.VideoReader:
    # Decord takes numbers from 1 on as frames, below as a share, and 0 as no limit.
    tolerance = max_stale or 1e-9
    try:
        return decord.VideoReader(source, num_threads=num_threads, fault_tol=tolerance)
    except Exception as error:
        raise VideoError(f'decord finds no video in it ({explain(error)})') from error


def explain(error: Exception) -> str:
    """Say in one line what an exception says, without decord's stack of calls."""
    if isinstance(error, decord.DECORDLimitReachedError):
        return 'frames of it cannot be decoded; decord would repeat others for them'
    first = (str(error).strip().splitlines() or [''])[0]
    text = re.sub(r'\[[\d:]+\] \S+:\d+: ', '', first)
    return text if isinstance(error, VideoError) else f'{type(error).__name__}: {text}'


def check_video(filename: str, full: bool) -> None:
    """Decode a video on a disk, a few of its frames or all.

    All frames are decoded twice: by decord, as in training, and by PyAV, which can be
    told to stop at damaged data where a decoder mostly paints over them.

    Raises:
        Exception: of many classes, whatever is wrong; :func:`explain` puts it in words.
    """
    filename = os.path.abspath(with_suffix(filename))
    reader = open_video(filename)
    if full:
        for start in range(0, len(reader), CHUNK):
            reader.get_batch(range(start, min(start + CHUNK, len(reader))))
        _decode_strictly(filename)
    else:
        frames = np.linspace(0, len(reader) - 1, SAMPLE).round().astype(int)
        reader.get_batch(frames)


def _decode_strictly(filename: str) -> None:
    import av  # an optional package

    with av.open(filename) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {'err_detect': 'explode'}
        for _ in container.decode(stream):
            pass
