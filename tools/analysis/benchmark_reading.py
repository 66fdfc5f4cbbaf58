"""Measure how long each decoder takes to read a clip from a video.

This is the part of tools/analysis/benchmark.py that generates its own videos.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from benchmark_model import rounds_of

from mmstop.datasets.videos import DECODERS, open_video

EXACT, REFERENCE = DECODERS
CLIPS = (12, 64)  # frames


class Made(NamedTuple):
    """An H.264 video in MP4 at 25 frames per second, with x264's defaults."""

    name: str
    seconds: int
    width: int
    height: int


VIDEOS = (Made('10 s', 10, 320, 240), Made('2 min', 120, 640, 360))


def measure_reading(repeats: int) -> list[dict]:
    """Measure decoders in turns, on videos and clips of several lengths.

    Args:
        repeats: rounds that count.
    Returns:
        a row for each video and clip: each decoder's median time in milliseconds, and
        the median ratio to decord within a round.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for video in VIDEOS:
            path = write(video, Path(folder))
            for frames in CLIPS:
                seconds = time_decoders(path, frames, repeats)
                ratios = np.divide(seconds[EXACT], seconds[REFERENCE])
                rows.append(
                    {
                        'video': f'{video.name}, {video.width} x {video.height}',
                        'frames': frames,
                        'ms': {
                            k: 1e3 * float(np.median(s)) for k, s in seconds.items()
                        },
                        'ratio': float(np.median(ratios)),
                    }
                )
    return rows


def time_decoders(path: str, frames: int, repeats: int) -> dict[str, list[float]]:
    """Time opening a video and decoding frames spread evenly over it, in seconds.

    Raises:
        RuntimeError: the decoders give different frames.
    """

    def clip(decoder: str) -> np.ndarray:
        reader = open_video(path, decoder)
        chosen = np.linspace(0, len(reader) - 1, frames).astype(int)
        return reader.get_batch(chosen).asnumpy()

    if not np.array_equal(clip(EXACT), clip(REFERENCE)):  # also warms up
        raise RuntimeError(f'{EXACT} and {REFERENCE} give different frames of {path}')
    return rounds_of({d: lambda d=d: clip(d) for d in DECODERS}, repeats)


def write(video: Made, folder: Path) -> str:
    """Write a video of a noisy picture that a camera pans over; return its path."""
    rng, path = np.random.default_rng(0), str(folder / f'{video.seconds}.mp4')
    coarse = rng.integers(0, 255, (video.height // 8 + 40, video.width // 8 + 40, 3))
    scene = cv2.resize(coarse.astype(np.uint8), None, fx=8, fy=8)
    with av.open(path, 'w') as container:
        stream = container.add_stream('libx264', 25, options={'preset': 'veryfast'})
        stream.width, stream.height, stream.pix_fmt = (
            video.width,
            video.height,
            'yuv420p',
        )
        for t in range(25 * video.seconds):
            x, y = int(100 + 90 * np.sin(t / 40)), int(100 + 90 * np.cos(t / 60))
            picture = scene[y : y + video.height, x : x + video.width]
            noise = rng.integers(0, 12, (*picture.shape[:2], 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture // 2 + noise)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def reading_table(rows: list[dict]) -> str:
    """Format the measurements."""
    lines = ['', f'video              frames   {EXACT} ms   {REFERENCE} ms   ratio']
    for row in rows:
        exact, reference = (f'{row["ms"][d]:.1f}' for d in DECODERS)
        lines.append(
            f'{row["video"]:<18} {row["frames"]:>6} {exact:>9} {reference:>11} '
            f'{row["ratio"]:>7.2f}'
        )
    return '\n'.join(lines)
