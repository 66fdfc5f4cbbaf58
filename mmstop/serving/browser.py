"""Make videos that browsers can play, in separate processes that may crash."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmstop.apis.sandbox import try_all
from mmstop.datasets import VideoError
from mmstop.datasets.containers import FFMPEG_FORMATS, check_file

__all__ = ['playable']

# Supported by Chromium, Firefox and Safari alike: container and codecs, by suffix.
PLAYED = {
    '.mp4': ('mp4', {'h264', 'av1', 'vp9'}),
    '.webm': ('webm', {'vp8', 'vp9', 'av1'}),
}
PIXELS = {'yuv420p', 'yuvj420p'}
LONGEST = 640  # pixels, the longer side of a copy
RATE = 25  # frames per second of a copy if the original gives no rate
OPTIONS = {'preset': 'veryfast', 'movflags': '+faststart'}


def playable(path: str, cache: Path) -> Path:
    """Return a video, or a silent H.264 copy if browsers cannot play it.

    Args:
        path: path of the video.
        cache: folder of the copies, created if it does not exist. A copy is reused as
            long as the video's size and modification time do not change.

    Raises:
        OSError: there is no such file, or the copy cannot be written.
        ValueError: it is not a video, or damaged.
    """
    stat = os.stat(path)
    key = f'{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}'
    name = hashlib.sha256(os.fsencode(key)).hexdigest()
    copy = cache / f'{name}.mp4'
    if copy.exists():
        return copy
    if _try(_plays, path):
        return Path(path)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        part = Path(folder) / copy.name
        _try(partial(_transcode, out=part), path)
        part.replace(copy)
    return copy


def _try(work: Callable[[str], Any], path: str) -> Any:
    """Process a video in another process."""
    ((value, fault),) = try_all(work, [os.path.abspath(path)])
    if fault is not None:
        raise ValueError(f'{path} cannot be shown: {fault}')
    return value


def _open(path: str) -> Any:
    return av.open(path, options={'format_whitelist': FFMPEG_FORMATS})


def _plays(path: str) -> bool:
    check_file(path)
    with _open(path) as file:
        if not file.streams.video:
            raise VideoError('it has no pictures')
        context = file.streams.video[0].codec_context
        container, codecs = PLAYED.get(Path(path).suffix.lower(), ('', set()))
        return (
            container in file.format.name.split(',')
            and context.name in codecs
            and context.pix_fmt in PIXELS
        )


def _transcode(path: str, out: Path) -> None:
    with _open(path) as source, av.open(str(out), 'w') as copy:
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
            raise VideoError('it has no frame')
        copy.mux(stream.encode())


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame (H, W, 3), uint8, RGB, upright and within the maximum size.

    H.264 with 4:2:0 needs even dimensions.
    """
    scale = min(1, LONGEST / max(frame.width, frame.height))
    width, height = (
        max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height)
    )
    image = frame.reformat(width, height, 'rgb24').to_ndarray()
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
