"""What STOP chose in a video, as a film that every player and browser plays."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmstop.errors import ConfigError

from .drawing import NEUTRAL, write_lines
from .trace import VideoTrace, strips_of

__all__ = ['check_encoder', 'write_trace_video', 'write_video']

FPS = Fraction(2)  # of the film, whose frames are sampled from the whole video
MIN_WIDTH = 640  # pixels, so that a line of text fits; smaller films are enlarged
ENCODER = 'libx264'
OPTIONS = {'crf': '16', 'movflags': '+faststart'}  # text and outlines stay sharp
BT601 = 6  # SMPTE 170M, the matrix with which RGB becomes YUV here


def check_encoder() -> None:
    """Check that films can be written.

    Raises:
        ConfigError: PyAV lacks the encoder.
    """
    if ENCODER not in av.codecs_available:
        raise ConfigError(
            f'this PyAV ({av.__version__}) has no encoder {ENCODER}, which H.264 films '
            f"need; install PyAV's own wheel: pip install --force-reinstall "
            f'--only-binary av av'
        )


def write_trace_video(
    path: Path,
    *traces: VideoTrace,
    header: Sequence[str] = (),
    colour: tuple[int, int, int] = NEUTRAL,
) -> None:
    """Write the frames as an mp4: prompted patches outlined, with W^s beside them.

    Args:
        traces: of one video; several blocks are stacked vertically.
        header: lines of text above, cut to the width of the film.
        colour: RGB of the header's background.

    Raises:
        ConfigError: PyAV lacks an encoder for H.264.
        OSError: the file cannot be written.
    """
    rows = [
        np.concatenate([strip.frames for strip in strips_of(trace)[:2]], axis=2)
        for trace in traces
    ]
    film = np.concatenate(rows, axis=1)
    factor = -(-MIN_WIDTH // film.shape[2])
    film = film.repeat(factor, axis=1).repeat(factor, axis=2)
    if header:
        above = np.asarray(write_lines(header, film.shape[2], colour))[None]
        film = np.concatenate([above.repeat(len(film), 0), film], axis=1)
    write_video(path, film, FPS)


def write_video(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """Write an mp4 in H.264.

    Args:
        path: of the file, in an existing folder.
        frames: (T, H, W, 3), uint8, RGB. H.264 with 4:2:0 needs even sides, so for odd
            sides the last row or column is repeated.
        fps: frames per second.

    Raises:
        ConfigError: PyAV lacks an encoder for H.264.
        OSError: the file cannot be written.
    """
    check_encoder()
    H, W = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)), mode='edge')
    try:
        with av.open(str(path.absolute()), 'w') as file:
            stream: Any = file.add_stream(ENCODER, fps, options=OPTIONS)
            stream.height, stream.width = even.shape[1:3]
            stream.pix_fmt = 'yuv420p'
            stream.codec_context.colorspace = BT601
            for frame in even:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            file.mux(stream.encode())
    except OSError as error:
        raise OSError(
            f'cannot write {str(path)!r}: {error.strerror}; is its folder there and '
            f'writable, with room on the disk?'
        ) from None
