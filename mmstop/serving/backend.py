"""The backend of the page: a model, an index, and uploaded videos."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, Union

import numpy as np

from mmstop.apis import Hit, Prediction, VideoCLIP, VideoIndex
from mmstop.apis.video_reading import VideoReader, read_videos
from mmstop.methods import STOPCLIPViT
from mmstop.text import split_lines
from mmstop.visualization import plot_trace, to_image, trace_video

from .browser import playable

__all__ = ['Desk', 'split_labels']

Answer = TypeVar('Answer')


class Desk:
    """A model and its index, shared by many visitors.

    Args:
        clip: the model.
        index: path of the index that ``mmstop embed`` wrote with this model. Playable
            copies of its videos go into the folder ``INDEX.clips`` next to it.

    Raises:
        FileNotFoundError: there is no such index.
        ValueError: another model made the index.
    """

    def __init__(self, clip: VideoCLIP, index: Union[str, os.PathLike]) -> None:
        self.clip = clip
        self.copies = Path(f'{index}.clips')
        # An SQLite connection belongs to one thread, and the model serves one request
        # at a time, so all visitors queue here.
        self._worker = ThreadPoolExecutor(1)
        self._index = self._wait_for(VideoIndex, index)
        self.search('a video', 1)  # so that any problem shows at once

    def _wait_for(self, work: Callable[..., Answer], *args: Any) -> Answer:
        return self._worker.submit(work, *args).result()

    def close(self) -> None:
        """Close the index."""
        self._wait_for(self._index.close)
        self._worker.shutdown()

    @property
    def classes(self) -> Sequence[str]:
        """Labels of the config; none for a retriever."""
        head = getattr(self.clip.model, 'cls_head', None)
        return [] if head is None else head.classes

    @property
    def draws(self) -> bool:
        """Whether the backbone is STOP, whose selections can be drawn."""
        return isinstance(self.clip.model.backbone, STOPCLIPViT)

    def __len__(self) -> int:
        return self._wait_for(self._index.__len__)

    def search(self, query: str, topk: int) -> list[Hit]:
        """Find the videos of the index that match a text best, best first.

        Raises:
            ValueError: the text is too long.
        """
        return self._wait_for(self.clip.search, query, self._index, topk)

    def playable(self, path: str) -> Path:
        """Return a video of the index, or a copy of it, that browsers can play.

        Raises:
            ValueError: it is not in the index, or damaged.
            OSError: the file no longer exists.
        """
        if not self._wait_for(self._index.__contains__, path):
            raise ValueError(f'{path} is not in the index')
        return playable(path, self.copies)

    def classify(self, path: str, labels: Sequence[str], topk: int) -> list[Prediction]:
        """Classify a video, most likely label first.

        Args:
            labels: any words; empty for the classes of the config.

        Raises:
            ValueError: there are no labels, or the video cannot be read.
        """
        return self._wait_for(self._classify, path, labels, topk)

    def _classify(
        self, path: str, labels: Sequence[str], topk: int
    ) -> list[Prediction]:
        errors: list[str] = []
        (found,) = self.clip.classify(
            path,
            labels or None,
            topk,
            on_error=lambda _, reason: errors.append(reason),
        )
        if errors:
            raise ValueError(f'the video cannot be read: {errors[0]}')
        return found

    def trace(self, path: str) -> np.ndarray:
        """Draw what STOP attended to and prompted: (H, W, 3), uint8, RGB.

        Raises:
            ValueError: the backbone is not STOP, or the video cannot be read.
        """
        return self._wait_for(self._trace, path)

    def _trace(self, path: str) -> np.ndarray:
        ((item, error),) = read_videos(VideoReader(*self.clip.pipelines, [path]))
        if error is not None:
            raise ValueError(f'the video cannot be read: {error}')
        return to_image(plot_trace(trace_video(self.clip.model, item)))


def split_labels(text: str) -> list[str]:
    """Return the lines of a text, without empty lines and duplicates."""
    lines = (line.strip() for line in split_lines(text))
    return list(dict.fromkeys(line for line in lines if line))
