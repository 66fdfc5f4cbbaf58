"""Read videos without a dataset, through a config's test pipeline."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Optional, Union

import numpy as np
from mmengine.dataset import Compose
from torch import Tensor
from tqdm import tqdm

from mmstop.datasets import CheckedDecordInit
from mmstop.datasets.containers import check_file
from mmstop.datasets.loading import DECODERS
from mmstop.text import printable

from .sandbox import Outcome, try_all
from .sources import Video

__all__ = [
    'EXACT',
    'OnError',
    'VideoReader',
    'decoder_of',
    'read_batches',
    'read_videos',
    'report',
    'use_decoder',
    'warn',
]

Step = Union[dict, Callable[[dict], dict]]  # a pipeline step
OnError = Callable[[str, str], Any]  # takes a video's path or number, and the reason

EXACT = DECODERS[0]


def decoder_of(steps: Sequence[dict], name: Optional[str]) -> str:
    """Return the decoder that :func:`use_decoder` uses for files."""
    named = [step['decoder'] for step in steps if 'decoder' in step]
    return name or (named or [EXACT])[0]


def use_decoder(steps: Sequence[dict], name: Optional[str]) -> list[Step]:
    """Replace the two steps of a pipeline that open and decode a video.

    The step that opens videos becomes ``CheckedDecordInit``, so that frames are exact.

    Args:
        name: 'pyav' or 'decord', as in ``CheckedDecordInit``; None for the pipeline's
            own decoder, or 'pyav' if it names none; 'array' to skip opening and take
            the frames from ``results['array']``.

    Raises:
        ValueError: there is no such decoder, or the pipeline does not read videos.
    """
    if name not in (None, 'array', *DECODERS):
        raise ValueError(f'decoder={name!r}, expected one of {list(DECODERS)}')
    kinds = [_kind(step) for step in steps]
    openers = [kind for kind in kinds if kind.endswith('Init')]
    if len(openers) != 1 or 'Decode' not in ''.join(kinds):
        raise ValueError(
            f'the test pipeline {kinds} does not read videos; it needs a step such as '
            f'CheckedDecordInit and one such as DecordDecode'
        )
    replaced: list[Step] = []
    for step, kind in zip(steps, kinds):
        if kind.endswith('Init'):
            if name != 'array':
                replaced.append(_opener(step, kind, decoder_of(steps, name)))
        elif not kind.endswith('Decode'):
            replaced.append(step)
        elif name == 'array':
            replaced.append(dict(type='mmaction.ArrayDecode'))
        else:
            own = kind == 'DecordDecode'
            replaced.append(step if own else dict(type='mmaction.DecordDecode'))
    return replaced


def _opener(step: dict, kind: str, decoder: str) -> dict:
    """Return an opening step with the same arguments, as far as they still apply."""
    if not kind.endswith('DecordInit'):
        step = {'io_backend': step.get('io_backend', 'disk')}
    return dict(step, type=CheckedDecordInit, decoder=decoder)


def _kind(step: dict) -> str:
    kind = step['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


class VideoReader:
    """Read videos one by one, by number.

    Args:
        file_pipeline: transforms for files.
        array_pipeline: transforms for frames in memory.
        videos: paths, or frames (T, H, W, 3), uint8, RGB.

    Raises:
        ValueError: an array has another shape or dtype.
    """

    def __init__(
        self, file_pipeline: Compose, array_pipeline: Compose, videos: Sequence[Video]
    ) -> None:
        self.file_pipeline = file_pipeline
        self.array_pipeline = array_pipeline
        self.videos = [_as_input(video) for video in videos]

    def __len__(self) -> int:
        return len(self.videos)

    def __call__(self, i: int) -> Any:
        """Return the pipeline's output for a video.

        Raises:
            Exception: of many classes, if the video cannot be read.
        """
        # The fields that a dataset would provide; retrieval pipelines need text.
        results: dict[str, Any] = dict(label=-1, start_index=0, modality='RGB', text='')
        video = self.videos[i]
        if isinstance(video, str):
            check_file(video)
            return self.file_pipeline(dict(results, filename=video))
        results.update(array=video, total_frames=len(video))
        return self.array_pipeline(results)


def _as_input(video: Video) -> Union[str, np.ndarray]:
    if isinstance(video, (str, os.PathLike)):
        # FFmpeg takes the part of a relative path before a colon for a protocol.
        return os.path.abspath(video)
    frames = video.cpu().numpy() if isinstance(video, Tensor) else np.asarray(video)
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f'got frames of shape {frames.shape}, expected (T, H, W, 3) with T >= 1'
        )
    if frames.dtype != np.uint8:
        raise ValueError(f'got frames of {frames.dtype}, expected uint8, RGB')
    return frames


def read_videos(
    reader: VideoReader, num_workers: int = 1, ahead: int = 0
) -> Iterator[Outcome]:
    """Read videos, in order, in separate processes, so that a decoder may crash.

    Args:
        num_workers: number of processes; 0 counts as 1.
        ahead: number of videos to read before they are requested.

    Raises:
        ValueError: ``num_workers`` is negative.
    """
    if num_workers < 0:
        raise ValueError(f'num_workers={num_workers}, expected at least 0')
    return try_all(reader, range(len(reader)), max(1, num_workers), ahead=ahead)


def read_batches(
    reader: VideoReader, batch_size: int, num_workers: int, progress: bool
) -> Iterator[list[tuple[int, Any, Optional[str]]]]:
    """Read videos batch by batch, with a bar on stderr if that is a terminal.

    The next batch is read while the current one is in use.

    Yields:
        for each video its number, the pipeline's output, and the error if it has none.

    Raises:
        ValueError: ``batch_size`` is less than 1, or ``num_workers`` negative.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size}, expected at least 1')
    outcomes = enumerate(read_videos(reader, num_workers, ahead=batch_size))
    hidden = None if progress else True  # None hides it if stderr is not a terminal
    with tqdm(total=len(reader), unit='video', disable=hidden) as bar:
        while batch := list(islice(outcomes, batch_size)):
            yield [(i, *outcome) for i, outcome in batch]
            bar.update(len(batch))


def report(videos: Sequence[Video], errors: dict[int, str], on_error: OnError) -> None:
    """Call ``on_error`` for each of ``errors``, keyed by index in ``videos``."""
    for i, reason in errors.items():
        video = videos[i]
        is_path = isinstance(video, (str, os.PathLike))
        on_error(str(video) if is_path else f'video {i}', reason)


def warn(video: str, reason: str) -> None:
    """Warn that a video cannot be read."""
    text = printable(f'{video} cannot be read: {reason}')
    warnings.warn(text, stacklevel=4)  # the caller's
