"""Videos that browsers play."""

import hashlib
import os
import tempfile
from pathlib import Path

import av
import numpy as np

__all__ = ['playable']

# What Chromium, Firefox and Safari have in common, by suffix.
CODECS = {'.mp4': {'h264', 'av1', 'vp9'}, '.webm': {'vp8', 'vp9', 'av1'}}
PIXELS = {'yuv420p', 'yuvj420p'}
LONGEST = 640  # pixels, the longer side of a copy
RATE = 25  # frames a second of a copy whose original does not say
OPTIONS = {'preset': 'veryfast', 'movflags': '+faststart'}


def playable(path: str, cache: Path) -> Path:
    """Return a video, or a copy in H.264 without sound where browsers cannot play it.

    Args:
        path: of the video.
        cache: folder of the copies, made if need be. A copy is found again as long as
            size and time of the video do not change.

    Raises:
        OSError: there is no such file, or the copy cannot be written.
        ValueError: it is no video, or damaged.
    """
    stat = os.stat(path)
    try:
        if _plays(path):
            return Path(path)
        key = f'{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}'
        copy = cache / f'{hashlib.sha256(key.encode()).hexdigest()}.mp4'
        if not copy.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                part = Path(folder) / copy.name
                _transcode(path, part)
                part.replace(copy)
        return copy
    except av.error.FFmpegError as error:
        raise ValueError(f'{path} cannot be shown: {error}') from None


def _plays(path: str) -> bool:
    with av.open(path) as file:
        if not file.streams.video:
            raise ValueError(f'{path} cannot be shown: it has no pictures')
        context = file.streams.video[0].codec_context
        codecs = CODECS.get(Path(path).suffix.lower(), set())
        return context.name in codecs and context.pix_fmt in PIXELS


def _transcode(path: str, out: Path) -> None:
    with av.open(path) as source, av.open(str(out), 'w') as copy:
        stream = None
        for frame in source.decode(video=0):
            image = _upright(frame)
            if stream is None:
                rate = source.streams.video[0].average_rate or RATE
                stream = copy.add_stream('libx264', rate, options=OPTIONS)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = 'yuv420p'
            copy.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        if stream is None:
            raise ValueError(f'{path} cannot be shown: it has no frame')
        copy.mux(stream.encode())


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame (H, W, 3), uint8, RGB, as it was held and not too large.

    H.264 with 4:2:0 wants even sides.
    """
    scale = min(1, LONGEST / max(frame.width, frame.height))
    width, height = (
        max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height)
    )
    image = frame.reformat(width, height, 'rgb24').to_ndarray()
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
