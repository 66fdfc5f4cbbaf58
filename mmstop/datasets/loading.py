"""Open the video files of a config and reject damaged ones."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

import mmcv
import numpy as np
from mmaction.datasets.transforms import DecordInit
from mmcv.image.geometric import cv2_interp_codes
from mmengine.fileio import get

from mmstop.errors import ConfigError, VideoError, typed
from mmstop.registry import TRANSFORMS

from .containers import check_container, check_file
from .video_files import MAX_PIXELS, VideoFile
from .video_stream import too_large

__all__ = [
    'DECODERS',
    'CheckedDecordInit',
    'check_video',
    'explain',
    'open_video',
    'with_suffix',
]

DECODERS = ('pyav', 'decord')
SAMPLE = 12  # frames that check_video samples unless it checks all


@TRANSFORMS.register_module()
class CheckedDecordInit(DecordInit):
    """Open a video as MMAction2's ``DecordInit`` does, but with exact frames.

    ``DecordDecode`` then returns exactly the requested frames, in presentation order
    and upright, also in its mode 'efficient'. ``total_frames`` is the number of frames
    that can be presented. It is an error if the file is missing, empty, not a video or
    shorter than its header declares, or if frames cannot be decoded. Frames that differ
    in size from the first are scaled to its size.

    Args:
        decoder: 'pyav' reads exact frames (:class:`VideoFile`). 'decord' is for
            comparisons with older results: for many files it silently returns wrong
            frames, and it crashes on some.
        max_pixels: maximum pixels per frame; more are an error.
        short_side: resize frames whose shorter side is longer, one by one, as
            ``Resize(scale=(-1, short_side))`` does. If that is the next step, the
            result is the same, but the clip is never held in memory at full size. None
            keeps the original size, as 'decord' always does.
        interpolation: as in ``Resize``.
        **kwargs: arguments of ``DecordInit``: ``num_threads``, ``io_backend``, and for
            any backend other than 'disk' its own arguments.

    Raises:
        ConfigError: there is no such decoder, or an argument is unknown or invalid.
        VideoError: on use, if the video is invalid.
    """

    @typed
    def __init__(
        self,
        decoder: str = 'pyav',
        max_pixels: int = MAX_PIXELS,
        short_side: Optional[int] = None,
        interpolation: str = 'bilinear',
        **kwargs: Any,
    ) -> None:
        if decoder not in DECODERS:
            raise ConfigError(f'decoder={decoder!r}, expected one of {list(DECODERS)}')
        if max_pixels < 1:
            raise ConfigError(f'max_pixels={max_pixels}, expected at least 1')
        if short_side is not None and short_side < 1:
            raise ConfigError(f'short_side={short_side}, expected at least 1')
        if interpolation not in cv2_interp_codes:
            raise ConfigError(
                f'interpolation={interpolation!r}, expected one of '
                f'{list(cv2_interp_codes)}'
            )
        super().__init__(**kwargs)
        if self.io_backend == 'disk' and self.kwargs:
            raise ConfigError(
                f'CheckedDecordInit does not know {", ".join(self.kwargs)}; its '
                f'arguments are decoder, max_pixels, short_side, interpolation, '
                f'num_threads and, where io_backend '
                f"is not 'disk', those of the backend"
            )
        self.decoder = decoder
        self.max_pixels = max_pixels
        self.short_side = short_side
        self.interpolation = interpolation

    def _get_video_reader(self, filename: str) -> Any:
        filename = with_suffix(filename)
        source: Union[str, io.BytesIO] = filename
        if self.io_backend != 'disk':
            backend = dict(backend=self.io_backend, **self.kwargs)
            source = io.BytesIO(get(filename, backend))
        reader = open_video(source, self.decoder, self.max_pixels, self.num_threads)
        if self.short_side is not None and isinstance(reader, FrameReader):
            reader.change = self._shrink
        return reader

    def _shrink(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        if min(height, width) <= self.short_side:
            return frame
        size = mmcv.rescale_size((width, height), (np.inf, self.short_side))
        frame = np.ascontiguousarray(frame)  # a rotated frame is a view
        return mmcv.imresize(frame, size, interpolation=self.interpolation)

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, decoder={self.decoder})'


class Frames(np.ndarray):
    """Frames with the interface of decord's arrays."""

    def asnumpy(self) -> np.ndarray:
        return self.view(np.ndarray)


class FrameReader:
    """Exact frames, with the part of decord's interface that MMAction2 uses."""

    def __init__(self, file: VideoFile) -> None:
        self.file = file
        self.change: Callable[[np.ndarray], np.ndarray] = lambda frame: frame
        self._next = 0

    def __len__(self) -> int:
        return len(self.file)

    def get_avg_fps(self) -> float:
        return self.file.fps

    def get_batch(self, numbers: Any) -> Frames:
        """Return frames by number: (n, H, W, 3), uint8, RGB."""
        return self.file.frames(np.atleast_1d(numbers), self.change).view(Frames)

    def seek(self, number: int) -> None:
        self._next = number

    def next(self) -> Frames:
        """Return the next frame: (H, W, 3), uint8, RGB."""
        self._next += 1
        return self.get_batch(self._next - 1)[0]


def with_suffix(filename: str) -> str:
    """Add the '.mp4' that MMAction2 lets annotation files leave out."""
    whole = Path(filename).suffix or os.path.exists(filename)
    return filename if whole else f'{filename}.mp4'


def open_video(
    source: Union[str, io.BytesIO],
    decoder: str = 'pyav',
    max_pixels: int = MAX_PIXELS,
    num_threads: int = 1,
) -> Any:
    """Open a complete video as a :class:`FrameReader` or decord's ``VideoReader``.

    Args:
        source: path, or the content of a file.
        decoder, max_pixels, num_threads: as in :class:`CheckedDecordInit`.

    Raises:
        VideoError: it is missing, not a file, empty, truncated, too large or not a
            video.
    """
    if isinstance(source, io.BytesIO):
        check_container(source)
        source.seek(0)
    else:
        check_file(source)
        # FFmpeg takes the part of a relative path before a colon for a protocol.
        source = os.path.abspath(source)
    if decoder == 'pyav':
        return FrameReader(VideoFile(source, max_pixels, num_threads))
    return _open_with_decord(source, max_pixels, num_threads)


def _open_with_decord(
    source: Union[str, io.BytesIO], max_pixels: int, num_threads: int
) -> Any:
    # Import it after PyAV, or decord's older libx264 and libvpx would replace PyAV's.
    import decord

    # decord repeats other frames in place of undecodable ones, up to this fraction. The
    # value 0 would mean no limit.
    none = 1e-9
    try:
        reader = decord.VideoReader(source, num_threads=num_threads, fault_tol=none)
        height, width, _ = reader[0].shape
    except Exception as error:
        raise VideoError(f'decord finds no video in it ({explain(error)})') from error
    if height * width > max_pixels:
        raise too_large(width, height, max_pixels)
    reader.seek(0)
    return reader


def explain(error: Exception) -> str:
    """Return an exception's message on one line, without decord's stack trace."""
    if type(error).__name__ == 'DECORDLimitReachedError':
        return 'some frames cannot be decoded; decord would repeat others instead'
    first = (str(error).strip().splitlines() or [''])[0]
    text = re.sub(r'\[[\d:]+\] \S+:\d+: ', '', first)
    return text if isinstance(error, VideoError) else f'{type(error).__name__}: {text}'


def check_video(filename: str, full: bool) -> None:
    """Decode a video on disk: a few of its frames, or all of them strictly.

    Raises:
        Exception: of many classes; :func:`explain` turns it into a message.
    """
    filename = os.path.abspath(with_suffix(filename))
    check_file(filename)
    file = VideoFile(filename)
    if full:
        file.check()
    else:
        file.frames(np.linspace(0, len(file) - 1, SAMPLE).round().astype(int))
