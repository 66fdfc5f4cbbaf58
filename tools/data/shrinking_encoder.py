"""Re-encode a video, upright and small, for fast access to every frame."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, Optional

import av
import numpy as np

from mmstop.datasets import VideoError
from mmstop.datasets.video_stream import upright

__all__ = ['container_of', 'decode', 'encode', 'on_screen', 'small_size']

# Files with other suffixes become MP4 under their old names, since their own containers
# lack H.264, timestamps or a frame index. Readers go by the content, not by the name.
CONTAINERS = {'.mkv': 'matroska', '.mov': 'mov'}
GOP = 12  # frames between key frames, at most what a reader decodes to reach a frame
# Constant quality, hardly distinguishable from the source. There are no B-frames, which
# readers tend to get out of order. GOPs are closed by default.
X264 = {'crf': '20', 'preset': 'fast', 'bf': '0', 'g': str(GOP), 'threads': '1'}
BT601 = 6  # SMPTE 170M, the matrix for the conversion from RGB to YUV


class Timed(NamedTuple):
    """A frame and the time at which it is shown."""

    frame: av.VideoFrame
    number: int  # in the source
    pts: int  # relative to the first frame
    time_base: Fraction  # seconds


def container_of(name: str) -> str:
    """Return FFmpeg's name of a result's container."""
    return CONTAINERS.get(Path(name).suffix.lower(), 'mp4')


def small_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the even height and width of a result, never larger than the source."""
    scale = Fraction(min(short_side, height, width), min(height, width))
    return max(2, int(scale * height) // 2 * 2), max(2, int(scale * width) // 2 * 2)


def encode(
    source: Path,
    part: Path,
    short_side: int,
    fps: Optional[Fraction],
    comment: str,
    num_frames: int,
) -> list[int]:
    """Write the frames of a video, upright and small.

    Args:
        fps: frames per second; None, or more than the source has, keeps all frames.
        comment: comment to store in the file.
        num_frames: number of frames in the source.

    Returns:
        the source's frame number for each frame written.

    Raises:
        VideoError: the source has a damaged frame, or another number of frames.
        av.FFmpegError: it is damaged.
    """
    numbers = []
    with av.open(os.path.abspath(source)) as container:
        stream = container.streams.best('video')
        rate = stream.average_rate or Fraction(25)
        counter = count()
        frames = timed(zip(decode(container, stream), counter), rate)
        if fps and fps < rate:
            rate = fps
            frames = on_screen(frames, fps)
        first = next(frames)
        size = small_size(first.frame.height, first.frame.width, short_side)
        with av.open(
            os.path.abspath(part), 'w', format=container_of(source.name)
        ) as output:
            output.metadata['comment'] = comment
            encoder = output.add_stream('libx264', rate, options=X264)
            encoder.pix_fmt = 'yuv420p'
            encoder.codec_context.colorspace = BT601
            encoder.codec_context.time_base = first.time_base
            picture = _small(first, *size)  # has the rotated size
            encoder.height, encoder.width = picture.height, picture.width
            for shown in chain([first], frames):
                output.mux(encoder.encode(_small(shown, *size)))
                numbers.append(shown.number)
            output.mux(encoder.encode())
    if (decoded := next(counter)) != num_frames:
        raise VideoError(f'it has {num_frames} frames, {decoded} can be decoded')
    return numbers


def decode(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Decode all frames in presentation order.

    Damage raises an error. Decoders would otherwise conceal it, and nobody could tell
    afterwards.
    """
    stream.codec_context.options = {'err_detect': 'explode'}
    stream.codec_context.thread_count = 1  # videos are processed in parallel instead
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise VideoError(f'the frame at {frame.time} s is damaged')
        yield frame


def timed(
    frames: Iterable[tuple[av.VideoFrame, int]], rate: Fraction
) -> Iterator[Timed]:
    """Make times relative to the first frame and strictly increasing.

    Args:
        rate: frames per second, for files without timestamps.
    """
    start, last = None, -1
    for frame, number in frames:
        if frame.pts is None:
            frame.time_base, frame.pts = 1 / rate, number
        start = frame.pts if start is None else start
        last = max(frame.pts - start, last + 1)
        yield Timed(frame, number, last, frame.time_base)


def on_screen(frames: Iterable[Timed], fps: Fraction) -> Iterator[Timed]:
    """Choose the frames that are on the screen at 0, 1/fps, 2/fps, ... seconds."""
    tick, before = 0, None
    for now in chain(frames, [None]):
        if before is not None:
            if now is not None:
                end = now.pts * now.time_base
            else:
                end = (before.pts + (before.frame.duration or 1)) * before.time_base
            while tick / fps < end:
                yield Timed(before.frame, before.number, tick, 1 / fps)
                tick += 1
        before = now


def _small(shown: Timed, height: int, width: int) -> av.VideoFrame:
    """Scale a frame and rotate it upright, as the exact reader does."""
    old = shown.frame
    rgb = old.reformat(width, height, 'rgb24', interpolation='BICUBIC').to_ndarray()
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright(rgb, old)), 'rgb24')
    frame.pts, frame.time_base = shown.pts, shown.time_base
    return frame
