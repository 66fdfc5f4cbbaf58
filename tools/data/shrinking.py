"""Re-encode one video, small and fast to read, and compare it with its source.

This is the part of tools/data/shrink_videos.py that runs in separate processes.
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

from mmstop.datasets import VideoError, VideoFile

MAKER = 'mmstop shrink_videos '  # start of the comment in each result

# Mean squared differences of frames, in grey levels, as measured by `_difference`.
DIFFERENT = 65.0  # 30 dB; noise, which compresses worst, reaches 33
ALIKE = 1.0  # 48 dB


def make_stamp(source: Path, short_side: int, fps: Optional[Fraction]) -> str:
    """Describe all that a result depends on, for the comment in the file."""
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
    """Encode ``source/name`` as ``target/name``, unless that is done already.

    The result is written to a temporary file, compared with the source, flushed to disk
    and renamed.

    Args:
        short_side: pixels, even; smaller videos keep their size.
        fps: frames per second; None keeps all frames and their timestamps.

    Raises:
        VideoError: the source cannot be read, the result differs from it, or another
            tool has made a file of that name.
        OSError: the file cannot be written.
    """
    path, result = source / name, target / name
    stamp = make_stamp(path, short_side, fps)
    if result.exists() and is_finished(result, stamp):
        return
    video = VideoFile(str(path))  # rejects other files before FFmpeg decodes them
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
    with suppress(OSError):  # some network file systems do not support it
        _make_durable(result.parent)


def part_of(result: Path) -> Path:
    """Return the path of the temporary file for a result."""
    return result.with_name(f'{result.name}.{os.getpid()}.part')


def remove_parts(target: Path) -> None:
    """Remove the temporary files of killed processes."""
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
    """Tell whether a file is complete and was made with this stamp.

    Raises:
        VideoError: it is a video that another tool made.
    """
    try:
        with av.open(os.path.abspath(result)) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
            comment = tags.get('comment', '')
            if comment == stamp:
                frames = decode(container, container.streams.video[0])
                return sum(1 for _ in frames) == len(VideoFile(str(result)))
    except (av.FFmpegError, VideoError):  # for example, truncated by a copy
        return False
    if not comment.startswith(MAKER):
        raise VideoError(
            f'{result} exists and was not made by this tool; move it away, or choose '
            f'another target'
        )
    return False


# --- Comparing ----------------------------------------------------------------------


def check(source: VideoFile, result: VideoFile, numbers: Sequence[int]) -> None:
    """Compare a result with its source: the number of frames, and three of them.

    A frame of the result must be similar to its source frame, and closer to it than to
    the frames before and after, unless these look the same.

    Args:
        numbers: the source's frame number for each frame of the result.

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
    """Compare two frames by their mean squared difference, in grey levels.

    Brightness is compared at half the result's size. Colour, which 4:2:0 stores at a
    lower resolution, is compared at an eighth.
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
