"""The videos that the annotation file of a data set lists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from mmaction.datasets import RawframeDataset, VideoDataset

from .annotations import load_captions, load_frame_labels, load_labels
from .loading import check_video, with_suffix
from .rawframes import CheckedRawframeDataset, Frames, check_frames
from .video_datasets import CheckedVideoDataset, VideoCaptionDataset

__all__ = ['RAWFRAMES', 'VIDEOS', 'Listed', 'Listing']

VIDEOS = (CheckedVideoDataset, VideoDataset)
RAWFRAMES = (CheckedRawframeDataset, RawframeDataset)


class Listed(NamedTuple):
    """A video in an annotation file."""

    path: str
    entry: Union[int, str]  # its line, or its key in a JSON file
    labels: list[int]  # one, several or none
    frames: Optional[Frames] = None  # of the folder ``path``; None for a video file

    def check(self, full: bool) -> None:
        """Read a few of its frames, or all of them.

        Raises:
            Exception: of various classes, depending on what is wrong.
        """
        if self.frames is None:
            check_video(self.path, full)
        else:
            check_frames(self.path, self.frames, full)


class Listing(NamedTuple):
    """A data set of a config, and where its files are."""

    where: str  # in the config
    node: dict
    kind: Optional[Callable]  # its class
    ann_file: Path
    folder: Path

    def is_a(self, *kinds: type) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, kinds)

    def videos(self) -> Optional[list[Listed]]:
        """Read the annotation file; None if its format is unknown.

        Raises:
            AnnotationError: the file is invalid.
        """
        if self.is_a(VideoCaptionDataset):
            names = load_captions(self.ann_file)
            return [Listed(with_suffix(self._join(name)), name, []) for name in names]
        get = self.node.get
        form = get('delimiter', ' '), get('multi_class', False), get('test_mode', False)
        if self.is_a(*VIDEOS):
            return [
                Listed(with_suffix(self._join(name)), line, _as_list(label))
                for name, label, line in load_labels(self.ann_file, *form)
            ]
        if self.is_a(*RAWFRAMES) and not get('with_offset'):
            files = get('start_index', 1), get('filename_tmpl', 'img_{:05}.jpg')
            return [
                Listed(self._join(name), line, _as_list(label), Frames(total, *files))
                for name, total, label, line in load_frame_labels(self.ann_file, *form)
            ]
        return None

    def _join(self, name: str) -> str:
        return str(self.folder / name)


def _as_list(label: Any) -> list[int]:
    return label if isinstance(label, list) else [label]
