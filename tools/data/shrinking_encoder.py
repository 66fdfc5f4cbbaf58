"""Encode a video anew, upright and small, such that every frame is reached fast."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple, Optional

import av
import numpy as np

from mmstop.datasets.video_streams import VideoError, upright

__all__ = ['container_of', 'decode', 'encode', 'on_screen', 'small_size']

# Files of other suffixes become MP4 under their old names, since their own containers
# hold no H.264, or no time stamps, or no table of frames. Readers go by the content.
CONTAINERS = {'.mkv': 'matroska', '.mov': 'mov'}
GOP = 12  # frames from one key frame to the next, which a reader decodes to reach one
# Constant quality that few can tell from the source. No B-frames: they are what readers
# get out of order. Groups of frames are closed by default.
X264 = {'crf': '20', 'preset': 'fast', 'bf': '0', 'g': str(GOP), 'threads': '1'}
BT601 = 6  # SMPTE 170M, the matrix with which RGB becomes YUV here


class Timed(NamedTuple):
    """A frame and when it is shown."""

    frame: av.VideoFrame
    number: int  # in the source
    pts: int  # from the first frame on
    time_base: Fraction  # seconds


def container_of(name: str) -> str:
    """Return FFmpeg's name of the container that a result has."""
    return CONTAINERS.get(Path(name).suffix.lower(), 'mp4')


def small_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the even height and width that a video gets, never larger ones."""
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
        fps: frames a second; None, and more than the source has, keeps all frames.
        comment: goes into the file.
        num_frames: how many the source has.

    Returns:
        the number in the source of each frame written.

    Raises:
        VideoError: the source has a damaged frame, or not as many.
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
            picture = _small(first, *size)  # of the turned size
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
    """Decode all frames in the order in which they are shown.

    Damage raises, where decoders otherwise paint over it: nobody could tell afterwards.
    """
    stream.codec_context.options = {'err_detect': 'explode'}
    stream.codec_context.thread_count = 1  # the processes are what runs in parallel
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise VideoError(f'the frame at {frame.time} s is damaged')
        yield frame


def timed(
    frames: Iterable[tuple[av.VideoFrame, int]], rate: Fraction
) -> Iterator[Timed]:
    """Count time from the first frame on, and let it rise from frame to frame.

    Args:
        rate: frames a second, for files without time stamps.
    """
    start, last = None, -1
    for frame, number in frames:
        if frame.pts is None:
            frame.time_base, frame.pts = 1 / rate, number
        start = frame.pts if start is None else start
        last = max(frame.pts - start, last + 1)
        yield Timed(frame, number, last, frame.time_base)


def on_screen(frames: Iterable[Timed], fps: Fraction) -> Iterator[Timed]:
    """Choose what is on the screen at 0, 1/fps, 2/fps, ... seconds."""
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
    """Scale a frame and turn it upright, as the exact reader does."""
    old = shown.frame
    rgb = old.reformat(width, height, 'rgb24', interpolation='BICUBIC').to_ndarray()
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright(rgb, old)), 'rgb24')
    frame.pts, frame.time_base = shown.pts, shown.time_base
    return frame
