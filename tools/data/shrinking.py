"""Encode one video anew, small and fast to read, and compare it with its source.

The part of tools/data/shrink_videos.py that runs in processes of its own.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Optional

import av
import cv2
import numpy as np
from shrinking_encoder import X264, decode, encode

from mmstop.datasets.video_files import VideoError, VideoFile

MAKER = 'mmstop shrink_videos '  # how the comment in each result begins

# Mean squared differences of frames, in grey levels, as `_difference` measures them.
DIFFERENT = 65.0  # 30 dB; noise, which compresses worst, reaches 33
ALIKE = 1.0  # 48 dB


def make_stamp(source: Path, short_side: int, fps: Optional[Fraction]) -> str:
    """Name all that a result depends on; it becomes the comment in the file."""
    status = source.stat()
    facts = dict(
        short_side=short_side,
        fps=str(fps),
        bytes=status.st_size,
        modified=status.st_mtime_ns,
        x264=X264,
    )
    return MAKER + json.dumps(facts)


def shrink(
    name: str, source: Path, target: Path, short_side: int, fps: Optional[Fraction]
) -> None:
    """Encode ``source/name`` as ``target/name``, unless that was done before.

    The result is written beside its place, compared with the source, made durable and
    renamed.

    Args:
        short_side: pixels, even; smaller videos keep their size.
        fps: frames a second; None keeps all frames and their time stamps.

    Raises:
        VideoError: the source cannot be read, the result differs from it, or what is
            in the result's place was made by something else.
        OSError: the file system refuses.
    """
    path, result = source / name, target / name
    stamp = make_stamp(path, short_side, fps)
    if result.exists() and is_finished(result, stamp):
        return
    video = VideoFile(str(path))  # refuses what is no video before FFmpeg decodes it
    part = part_of(result)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        numbers = encode(path, part, short_side, fps, stamp, len(video))
        check(video, VideoFile(str(part)), numbers)
        _make_durable(part)
        os.replace(part, result)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some network file systems have no such call
        _make_durable(result.parent)


def part_of(result: Path) -> Path:
    """Return where this process writes a result before it is whole."""
    return result.with_name(f'{result.name}.{os.getpid()}.part')


def remove_parts(target: Path) -> None:
    """Remove what killed processes began to write."""
    for path in target.rglob('*.part'):
        if re.search(r'\.\d+\.part$', path.name):
            path.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_finished(result: Path, stamp: str) -> bool:
    """Tell whether a file is whole and was made like this from this source.

    Raises:
        VideoError: it is a video that something else made.
    """
    try:
        with av.open(os.path.abspath(result)) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
            comment = tags.get('comment', '')
            if comment == stamp:
                frames = decode(container, container.streams.video[0])
                return sum(1 for _ in frames) == len(VideoFile(str(result)))
    except (av.FFmpegError, VideoError):  # cut short by a copy, say
        return False
    if not comment.startswith(MAKER):
        raise VideoError(
            f'{result} is there and was not made by this tool; move it away, or name '
            f'another target'
        )
    return False


# --- Comparing ----------------------------------------------------------------------


def check(source: VideoFile, result: VideoFile, numbers: Sequence[int]) -> None:
    """Compare a result with its source: how many frames, and three of them.

    A frame of the result has to be like its frame of the source, and nearer to it than
    to the frames before and after, unless these look the same.

    Args:
        numbers: in the source, of each frame of the result.

    Raises:
        VideoError: they differ.
    """
    if len(result) != len(numbers):
        raise VideoError(
            f'the result has {len(result)} frames, expected {len(numbers)}'
        )
    for place in dict.fromkeys([0, len(numbers) // 2, len(numbers) - 1]):
        (frame,) = result.frames([place])
        number = numbers[place]
        others = [n for n in (number - 1, number + 1) if 0 <= n < len(source)]
        pictures = source.frames([number, *others])
        right, *wrong = (_difference(frame, picture) for picture in pictures)
        if right > DIFFERENT or any(right > 2 * w + ALIKE for w in wrong):
            psnr = 10 * np.log10(255**2 / right)
            raise VideoError(
                f'frame {place} of the result is not frame {number} of the source '
                f'({psnr:.1f} dB)'
            )


def _difference(result: np.ndarray, source: np.ndarray) -> float:
    """Compare two frames by the mean of their squared differences, in grey levels.

    Brightness is compared at half the result's size and colour, which 4:2:0 keeps less
    of, at an eighth.
    """
    differences = []
    for part, grey in ((2, True), (8, False)):
        size = [max(1, side // part) for side in result.shape[1::-1]]
        small = [
            cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in (result, source)
        ]
        if grey:
            small = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in small]
        one, other = (f.astype(np.float32) for f in small)
        differences.append(np.square(one - other).mean())
    return float(max(differences))
