"""Read packets and decoded frames of a video file from the start."""

import gc
import io
import os
from collections.abc import Iterator
from typing import Union

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream as Stream

from mmstop.errors import VideoError

from .containers import FFMPEG_FORMATS

__all__ = ['VideoStream', 'cause', 'too_large', 'upright']

# Closing a decoder or encoder waits for its threads, which a fork does not copy. So a
# forked process, such as a data worker, must not collect its parent's garbage.
os.register_at_fork(after_in_child=gc.freeze)


class VideoStream:
    """The best video stream of a file.

    Args:
        source: path, or the content of a file.
        max_pixels: maximum pixels per frame, checked before a frame is allocated.
        num_threads: threads of the decoder.
        strict: stop at damaged data, which a decoder otherwise conceals.

    Raises:
        VideoError: there is no video in it, or it is too large.
    """

    def __init__(
        self,
        source: Union[str, io.BytesIO],
        max_pixels: int,
        num_threads: int = 1,
        strict: bool = False,
    ) -> None:
        if isinstance(source, str):
            # FFmpeg takes the part of a relative path before a colon for a protocol.
            source = os.path.abspath(source)
        else:
            source.seek(0)
        # FFmpeg also counts the padding that it adds to each row.
        limit = {'max_pixels': str(2 * max_pixels + 2**20)}
        formats = {'format_whitelist': FFMPEG_FORMATS}
        try:
            container = av.open(source, options=limit | formats)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f'FFmpeg finds no video in it ({cause(error)})') from None
        assert isinstance(container, InputContainer)  # opened for reading
        self.container, self.strict = container, strict
        stream = container.streams.best('video')
        if (
            not isinstance(stream, Stream)
            or Disposition.attached_pic in stream.disposition
        ):
            raise VideoError('there is no video in it')
        if stream.codec_context is None:
            raise VideoError('there is no decoder for its video')
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        self.stream, self.context = stream, stream.codec_context
        self.width, self.height = self.context.width, self.context.height
        if not self.width * self.height:  # FFmpeg found no frame, or one too large
            raise VideoError(
                f'there is no frame in it, or none of at most max_pixels={max_pixels}'
            )
        if self.width * self.height > max_pixels:
            raise too_large(self.width, self.height, max_pixels)
        self.context.options = dict(
            limit, **{'err_detect': 'explode'} if strict else {}
        )
        self.context.thread_count = num_threads
        self.context.thread_type = 'AUTO' if num_threads > 1 else 'NONE'

    def close(self) -> None:
        """Close the file; PyAV's reference cycles would keep it open for a while."""
        self.container.close()

    @property
    def fps(self) -> float:
        """The mean frame rate from the file or FFmpeg's guess; 0 if unknown."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 0)

    def packets(self) -> Iterator[av.Packet]:
        """Read the remaining packets, except for PyAV's final empty one.

        Raises:
            VideoError: the file cannot be read.
        """
        try:
            yield from (p for p in self.container.demux(self.stream) if p.size)
        except av.FFmpegError as error:
            raise VideoError(f'it cannot be read ({cause(error)})') from None

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode all frames; nothing may have been read before.

        Undecodable data before the first frame belongs to a frame that was cut off, and
        is ignored.

        Raises:
            VideoError: data is damaged.
        """
        started, read = self.strict, 0
        try:
            for packet in self.container.demux(self.stream):
                try:
                    frames = self.context.decode(packet)
                except av.FFmpegError:
                    if started:
                        raise
                    continue
                started = started or bool(frames)
                yield from frames
                if packet.dts is not None:
                    read = packet.dts + 1
        except av.FFmpegError as error:
            raise VideoError(f'it cannot be decoded ({cause(error)})') from None
        # FFmpeg silently skips damaged chunks of an AVI file. The tolerance is for old
        # muxers, whose headers are off by a few frames.
        promised = self.stream.frames if self.container.format.name == 'avi' else 0
        if read < 0.9 * promised:
            raise VideoError(f'it ends at frame {read} of the {promised} in its header')


def cause(error: Exception) -> str:
    """Return an exception's message; for FFmpeg's errors only the essential part."""
    return getattr(error, 'strerror', None) or str(error)


def too_large(width: int, height: int, max_pixels: int) -> VideoError:
    """Return the error for frames with too many pixels."""
    return VideoError(
        f'its frames have {width} x {height} pixels, more than '
        f'max_pixels={max_pixels}; shrink them, or raise it in CheckedDecordInit'
    )


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Rotate and flip a picture (H, W, C) according to its file's display matrix.

    Raises:
        VideoError: the angle is not a multiple of 90 degrees.
    """
    data = frame.side_data.get('DISPLAYMATRIX')
    if data is None:
        return picture
    matrix = np.frombuffer(data, np.int32)[[0, 1, 3, 4]] / 65536  # type: ignore[call-overload]
    a, b, c, d = turns = np.round(matrix)  # x' = a x + c y, y' = b x + d y
    straight = (a == d == 0) != (b == c == 0) and abs(a * d - b * c) == 1
    if not straight or np.abs(matrix - turns).max() > 0.01:
        angle = np.degrees(np.arctan2(matrix[1], matrix[0])) % 360
        raise VideoError(
            f'its display rotation is {angle:.0f} degrees clockwise, expected a '
            f'multiple of 90'
        )
    if a == 0:
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    return picture[:: int(d), :: int(a)]
