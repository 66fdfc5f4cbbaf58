"""Datasets that never silently replace, repeat or leave out a video."""

import hashlib
import os
import threading
import warnings
from typing import Any

from mmaction.datasets import BaseActionDataset

from mmstop.errors import ConfigError, VideoError, typed
from mmstop.registry import DATASETS
from mmstop.text import printable

from .annotations import load_captions, load_labels
from .data_workers import guarded
from .loading import explain

__all__ = ['CheckedDataset', 'CheckedVideoDataset', 'VideoCaptionDataset']


class CheckedDataset(BaseActionDataset):
    """A dataset that reports which video cannot be used, where it is listed and why.

    A bad video is replaced by the next one in the annotation file, so that a resumed
    run sees the same videos as an uninterrupted one. The replacement lists the lost
    videos in ``data_samples.lost_videos``, where ``BadVideoHook`` counts them.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        on_error: 'raise' stops at the first video that cannot be used; 'skip' warns and
            uses the next one instead. Testing allows only 'raise', since a metric
            without some of the videos is a different metric.
        max_refetch: number of consecutive bad videos to skip before stopping anyway.
        timeout: seconds after which a data worker that is still reading the same video
            reports it and exits, which ends the run. Nothing else stops a decoder that
            hangs. Without data workers (``num_workers=0``) there is no limit.
        val_from_train: share of the listed videos to hold out for validation, in
            [0, 1). In training the data set leaves these videos out; in testing
            (``test_mode=True``) it has only these. They are the videos whose names have
            the lowest SHA-256, so every process and every run holds out the same,
            whatever their order and folder. A config sets it for training and
            validation alike, see :func:`mmstop.config.hold_out`.
        **kwargs: arguments of MMAction2's ``BaseActionDataset``: ``pipeline``,
            ``data_root``, ``data_prefix=dict(video=...)``, ``test_mode``, ...

    Raises:
        ConfigError: ``on_error`` is unknown, or 'skip' in testing; ``timeout`` is not
            greater than 0; or ``val_from_train`` is out of range or leaves no video on
            one side.
        VideoError: on access, if a video cannot be used and may not be skipped.
    """

    @typed
    def __init__(
        self,
        ann_file: str,
        on_error: str = 'raise',
        max_refetch: int = 10,
        timeout: float = 600,
        val_from_train: float = 0,
        **kwargs: Any,
    ) -> None:
        if not 0 <= val_from_train < 1:
            raise ConfigError(
                f'val_from_train={val_from_train}, expected a share of the training '
                f'videos of at least 0 and less than 1'
            )
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ConfigError(f'timeout={timeout}, expected more than 0 seconds')
        if on_error not in ('raise', 'skip'):
            raise ConfigError(f"on_error={on_error!r}, expected 'raise' or 'skip'")
        if on_error == 'skip' and kwargs.get('test_mode'):
            raise ConfigError(
                "on_error='skip' is for training: a metric without some of the videos "
                "is a different metric. Set on_error='raise', and remove bad videos "
                'from the annotation file (tools/analysis/check_videos.py '
                '--write-clean)'
            )
        self.on_error = on_error
        self.timeout = timeout
        self.val_from_train = val_from_train
        super().__init__(ann_file, max_refetch=max_refetch, **kwargs)

    def filter_data(self) -> list[dict]:
        """Keep this data set's side of ``val_from_train``."""
        if not self.val_from_train:
            return self.data_list
        held_out, count = self._held_out()
        if not 0 < len(held_out) < count:
            raise ConfigError(
                f'val_from_train={self.val_from_train} would hold out {len(held_out)} '
                f'of the {count} videos of {self.ann_file}, and training and '
                f'validation need at least one each'
            )
        return [
            info
            for info in self.data_list
            if (info['name'] in held_out) == self.test_mode
        ]

    def _held_out(self) -> tuple[set[str], int]:
        """Draw the held-out videos by their names; also return how many are listed."""
        names = {info['name'] for info in self.data_list}
        ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        return {*ranked[: round(self.val_from_train * len(names))]}, len(names)

    def entry(self, info: dict) -> str:
        """Return the position of an item in the annotation file, for messages."""
        return f'line {info["line"]}'

    def __getitem__(self, idx: int) -> dict:
        lost: dict[str, str] = {}  # by file, since a video may have several items
        for i in range(idx, idx + len(self)):
            info = self.get_data_info(i % len(self))
            name = info['filename']
            video = printable(f'{name} ({self.entry(info)} of {self.ann_file})')
            if name in lost:
                continue
            try:
                with guarded(video, self.timeout):
                    item = self.pipeline(info)
                if item is None:
                    raise VideoError('the pipeline returned None for it')
            except Exception as error:
                lost[name] = f'{video}: {explain(error)}'
                if self.on_error == 'raise':
                    raise VideoError(
                        f'{lost[name]}. Repair it or remove it from the annotation '
                        f'file; tools/analysis/check_videos.py finds all such videos'
                    ) from error
                warnings.warn(f'skipped {lost[name]}', stacklevel=2)
                if len(lost) > self.max_refetch:
                    break
                continue
            if lost:
                item['data_samples'].set_metainfo({'lost_videos': [*lost.values()]})
            return item
        raise VideoError(
            f'{len(lost)} videos in a row cannot be used, too many to skip:\n'
            + '\n'.join(lost.values())
        )


@DATASETS.register_module()
class CheckedVideoDataset(CheckedDataset):
    """Read videos and labels from a list, as MMAction2's ``VideoDataset`` does.

    Args:
        ann_file: path of the list, relative to ``data_root``. Each line has a path and
            a label, or several labels with ``multi_class=True``.
        delimiter: separator between path and label.
        **kwargs: arguments of :class:`CheckedDataset` and of MMAction2's
            ``BaseActionDataset``: ``on_error``, ``pipeline``, ``data_root``,
            ``data_prefix=dict(video=...)``, ``test_mode``, ``multi_class``, ...

    Raises:
        FileNotFoundError: there is no such list.
        AnnotationError: the list or one of its lines is invalid.
    """

    @typed
    def __init__(self, ann_file: str, delimiter: str = ' ', **kwargs: Any) -> None:
        self.delimiter = delimiter
        super().__init__(ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the videos in file order."""
        folder = self.data_prefix.get('video', '')
        return [
            dict(filename=os.path.join(folder, name), name=name, label=label, line=line)
            for name, label, line in load_labels(
                self.ann_file, self.delimiter, self.multi_class, self.test_mode
            )
        ]


@DATASETS.register_module()
class VideoCaptionDataset(CheckedDataset):
    """Read videos and captions from ``{"video7.mp4": ["a caption", ...], ...}``.

    In training, an item is one caption with its video, so a video with twenty captions
    gives twenty items. In testing (``test_mode=True``), an item is one video with all
    its captions, so each video is decoded and encoded once. The pipeline receives
    ``filename``, ``video_id`` (the name in the file) and ``text``: one caption, or in
    testing the list of captions.

    Args:
        ann_file: path of the annotation file, relative to ``data_root``.
        **kwargs: arguments of :class:`CheckedDataset` and of MMAction2's
            ``BaseActionDataset``: ``on_error``, ``pipeline``, ``data_root``,
            ``data_prefix=dict(video=...)``, ``test_mode``, ...

    Raises:
        FileNotFoundError: there is no such annotation file.
        AnnotationError: the file or one of its entries is invalid.
    """

    def load_data_list(self) -> list[dict]:
        """List the items in file order."""
        folder = self.data_prefix.get('video', '')
        items = []
        for name, captions in load_captions(self.ann_file).items():
            video = dict(filename=os.path.join(folder, name), name=name, video_id=name)
            texts = [captions] if self.test_mode else captions
            items += [dict(video, text=text) for text in texts]
        return items

    def entry(self, info: dict) -> str:
        return f'entry {info["video_id"]!r}'
