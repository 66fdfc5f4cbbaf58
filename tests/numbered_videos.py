"""Videos of every kind that FFmpeg writes, with its number painted into each frame."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Optional

import av
import numpy as np

GRID = 4  # cells of a picture each way: 8 bits of its number, and again, inverted


class Video(NamedTuple):
    """How to write a video."""

    suffix: str
    codec: str = 'libx264'
    num: int = 100
    size: tuple[int, int] = (64, 48)  # width and height, upright
    rate: Fraction = Fraction(25)
    options: dict = {}  # of the encoder
    muxing: dict = {}
    pix_fmt: Optional[str] = None
    rotation: int = 0  # degrees, counterclockwise, by which a player turns it
    mirrored: bool = False
    times: Optional[Callable[[int], int]] = None  # time stamp of a frame, in 1 / rate
    tag: Optional[str] = None


def paint(number: int, width: int, height: int) -> np.ndarray:
    """Draw a number: (H, W, 3), uint8."""
    bits = [number >> bit & 1 for bit in range(8)]
    cells = np.array(bits + [1 - bit for bit in bits]).reshape(GRID, GRID)
    rows = np.arange(height) * GRID // height
    columns = np.arange(width) * GRID // width
    grey = 32 + 192 * cells[rows][:, columns].astype(np.uint8)
    return grey[..., None].repeat(3, 2)


def read(picture: np.ndarray) -> int:
    """Read the number that was painted; -1 where there is none."""
    height, width = picture.shape[:2]
    centres = (2 * np.arange(GRID) + 1) * np.array([[height], [width]]) // (2 * GRID)
    bits = picture[np.ix_(*centres)].mean(2).ravel() > 128
    if (bits[:8] == bits[8:]).any():
        return -1
    return int(bits[:8] @ (1 << np.arange(8)))


def write(video: Video, path: Path) -> Path:
    """Write a video; ``path`` is without its suffix.

    Raises:
        av.FFmpegError, ValueError: FFmpeg does not write this.
    """
    path = path.with_name(f'{path.name}.{video.suffix}')
    with av.open(str(path), 'w', options=video.muxing) as container:
        options = {'threads': '1', **video.options}
        stream = container.add_stream(video.codec, video.rate, options=options)
        width, height = video.size
        if video.rotation % 180:
            width, height = height, width
        stream.width, stream.height = width, height
        stream.pix_fmt = (
            video.pix_fmt or stream.codec_context.codec.video_formats[0].name
        )
        stream.codec_context.time_base = 1 / video.rate
        if video.tag:
            stream.codec_context.codec_tag = video.tag
        if video.rotation or video.mirrored:
            stream.set_display_rotation(video.rotation, video.mirrored)
        for i in range(video.num):
            picture = paint(i, *video.size)
            if video.mirrored:
                picture = picture[:, ::-1]
            picture = np.rot90(picture, -video.rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), 'rgb24')
            frame.pts = video.times(i) if video.times else i
            frame.time_base = 1 / video.rate
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def remux(
    source: Path,
    path: Path,
    skip: int = 0,
    tell: Callable[[av.Packet], None] = lambda packet: None,
) -> Path:
    """Copy the packets of a video into another file.

    Args:
        skip: how many to leave out at the start.
        tell: changes what is said of a packet.
    """
    with av.open(str(source)) as old, av.open(str(path), 'w') as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in list(old.demux(video=0))[skip:]:
            if packet.size:
                tell(packet)
                packet.stream = stream
                new.mux(packet)
    return path


def decode(path: Path) -> list[np.ndarray]:
    """Decode a whole video from its start in the plainest way: RGB, not turned."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
