"""Early checks of the data that a config names, before anything is built."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from mmaction.datasets import RawframeDataset, VideoDataset
from mmengine import registry as root
from mmengine.config import Config

from mmstop.datasets import (
    AnnotationError,
    CheckedRawframeDataset,
    CheckedVideoDataset,
    VideoCaptionDataset,
    VideoError,
    load_captions,
    load_classes,
    load_frame_labels,
    load_labels,
)
from mmstop.datasets.loading import check_video, with_suffix
from mmstop.datasets.rawframes import Frames, check_frames
from mmstop.towers import Tower

from .schema import ConfigError, Place, target_at, top

__all__ = ['Listed', 'Listing', 'check_data', 'datasets', 'is_local', 'listings']

LOOKED_FOR = 16  # videos per list; checking all takes minutes on a network disk


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


RAWFRAMES = (CheckedRawframeDataset, RawframeDataset)


class Listing(NamedTuple):
    """A data set of a config, and where its files are."""

    where: str  # in the config
    node: dict
    kind: Any  # its class
    ann_file: Path
    folder: Path

    def videos(self) -> Optional[list[Listed]]:
        """Read the annotation file; None if its format is unknown.

        Raises:
            AnnotationError: the file is invalid.
        """
        if not isinstance(self.kind, type):
            return None
        if issubclass(self.kind, VideoCaptionDataset):
            names = load_captions(self.ann_file)
            return [Listed(self._path(name), name, []) for name in names]
        form = (
            self.node.get('delimiter', ' '),
            self.node.get('multi_class', False),
            self.node.get('test_mode', False),
        )
        if issubclass(self.kind, (CheckedVideoDataset, VideoDataset)):
            return [
                Listed(self._path(name), line, _as_list(label))
                for name, label, line in load_labels(self.ann_file, *form)
            ]
        if issubclass(self.kind, RAWFRAMES) and not self.node.get('with_offset'):
            files = (
                self.node.get('start_index', 1),
                self.node.get('filename_tmpl', 'img_{:05}.jpg'),
            )
            return [
                Listed(
                    str(self.folder / name),
                    line,
                    _as_list(label),
                    Frames(total, *files),
                )
                for name, total, label, line in load_frame_labels(self.ann_file, *form)
            ]
        return None

    def _path(self, name: str) -> str:
        return with_suffix(str(self.folder / name))


def _as_list(label: Union[int, list[int]]) -> list[int]:
    return label if isinstance(label, list) else [label]


def listings(cfg: Config, split: str) -> Iterator[Listing]:
    """Find the data sets of a split whose annotation files are on a local disk.

    Raises:
        ConfigError: an annotation file or folder does not exist.
    """
    where = f'{split}_dataloader.dataset'
    loader = cfg.get(f'{split}_dataloader') or {}
    for path, node in datasets(loader.get('dataset'), where):
        _check_files(path, node)
        data_root, ann_file = node.get('data_root') or '', node['ann_file']
        kind = target_at(node, Place(path, root.DATASETS, top(cfg).scope))
        extracted = isinstance(kind, type) and issubclass(kind, RAWFRAMES)
        prefixes = node.get('data_prefix') or {}
        prefix = prefixes.get('img' if extracted else 'video', '')
        if ann_file and is_local(data_root, ann_file, prefix):
            ann_file, folder = Path(data_root, ann_file), Path(data_root, prefix)
            yield Listing(path, node, kind, ann_file, folder)


def check_data(cfg: Config, split: str) -> None:
    """Read the annotation files of a split and look for some of its videos.

    Raises:
        ConfigError: the first fault found.
    """
    for listing in listings(cfg, split):
        _check_layout(cfg, listing)
        try:
            videos = listing.videos()
            if videos is None:
                continue
            _check_labels(cfg, split, listing, videos)
            _check_classes(cfg, listing, videos)
        except AnnotationError as error:
            raise ConfigError(f'{listing.where}: {error}') from error
        _look_for(listing, videos)


def datasets(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Find the data sets in that of a data loader, which may be wrapped or joined."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from datasets(child, f'{path}.{i}')
    elif isinstance(node, dict):
        if isinstance(node.get('ann_file'), str):
            yield path, node
        for key in ('dataset', 'datasets'):
            yield from datasets(node.get(key), f'{path}.{key}')


def _check_files(path: str, dataset: dict) -> None:
    """Look for the annotation file and the folders, joined as ``BaseDataset`` does."""
    data_root = dataset.get('data_root') or ''
    remedy = (
        f'prepare the data set (tools/data), or change {path}.ann_file, data_root or '
        f'data_prefix (data_root is {data_root!r})'
    )
    ann_file = dataset['ann_file']
    if ann_file and is_local(data_root, ann_file):
        file = Path(data_root, ann_file)
        if not file.is_file():
            raise ConfigError(f"{path}.ann_file: there is no file '{file}'; {remedy}")
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, dict):
        raise ConfigError(
            f'{path}.data_prefix is {prefixes!r}, expected a dict such as '
            f'dict(video={prefixes!r})'
        )
    for key, prefix in prefixes.items():
        if isinstance(prefix, str) and prefix and is_local(data_root, prefix):
            folder = Path(data_root, prefix)
            if not folder.is_dir():
                raise ConfigError(
                    f"{path}.data_prefix.{key}: there is no folder '{folder}'; {remedy}"
                )


def _check_layout(cfg: Config, listing: Listing) -> None:
    """Reject a layout in which a tower would treat each frame as a separate image."""
    place = Place('model.backbone', root.MODELS, top(cfg).scope)
    backbone = target_at((cfg.get('model') or {}).get('backbone') or {}, place)
    if not (isinstance(backbone, type) and issubclass(backbone, Tower)):
        return
    for i, step in enumerate(listing.node.get('pipeline') or []):
        if isinstance(step, dict) and step.get('input_format') == 'NCHW':
            raise ConfigError(
                f"{listing.where}.pipeline.{i}.input_format is 'NCHW', which makes "
                f"every frame an image of its own; set it to 'NCTHW', and "
                f'data_preprocessor.format_shape as well'
            )


def _check_labels(
    cfg: Config, split: str, listing: Listing, videos: list[Listed]
) -> None:
    """Reject evaluation on a list without labels, where every prediction is wrong."""
    if any(label != -1 for video in videos for label in video.labels):
        return
    evaluators = cfg.get(f'{split}_evaluator') or []
    if isinstance(evaluators, dict):
        evaluators = evaluators.get('metrics', [evaluators])
    kinds = [metric.get('type') for metric in evaluators]
    names = {getattr(kind, '__name__', kind) for kind in kinds} - {'DumpResults'}
    if names and not issubclass(listing.kind, VideoCaptionDataset):
        raise ConfigError(
            f'{listing.where}: {listing.ann_file} has no labels, so that '
            f'{", ".join(sorted(names))} would find every prediction wrong; add a '
            f'label to each line, or only predict: tools/test.py ... --dump FILE.pkl '
            f'--cfg-options test_evaluator=[]'
        )


def _check_classes(cfg: Config, listing: Listing, videos: list[Listed]) -> None:
    """Compare the labels of a list with the classes of the model, if both exist."""
    num_classes = _num_classes(cfg)
    labelled = [video for video in videos if video.labels]
    if num_classes is None or not labelled:
        return
    own = listing.node.get('num_classes')
    if listing.node.get('multi_class') and own != num_classes:
        raise ConfigError(
            f'{listing.where}.num_classes is {own}, but the model has {num_classes} '
            f'classes; set it to {num_classes}'
        )
    last = max(labelled, key=lambda video: max(video.labels))
    highest = max(last.labels)
    if highest >= num_classes:
        raise ConfigError(
            f'{listing.where}: line {last.entry} of {listing.ann_file} has the label '
            f'{highest} ({last.path!r}), but the model has {num_classes} classes, from '
            f'0 to {num_classes - 1}. Correct the line, count labels from 0, or give '
            f'the model the classes of this data set'
        )
    _check_first_label(listing, {n for v in labelled for n in v.labels}, num_classes)
    if highest < num_classes - 1 and not listing.node.get('test_mode'):
        warnings.warn(
            f'{listing.ann_file}: the highest label is {highest}, but the model has '
            f'{num_classes} classes; are they the classes of this data set?',
            stacklevel=2,
        )


def _check_first_label(listing: Listing, labels: set[int], num_classes: int) -> None:
    """Reject labels that start at 1, in the case that the last class has no video.

    A test list may lack a class by chance, but it is unlikely to lack only the first.
    """
    lacking = num_classes - len(labels)
    if 0 in labels or -1 in labels or num_classes < 3:
        return
    if not listing.node.get('test_mode') or lacking <= max(1, num_classes // 10):
        raise ConfigError(
            f'{listing.where}: {listing.ann_file} has labels from {min(labels)} to '
            f'{max(labels)} and none is 0; they seem to be counted from 1: subtract 1 '
            f'from each, or, if class 0 has no video, take it out of the classes'
        )


def _num_classes(cfg: Config) -> Optional[int]:
    head = (cfg.get('model') or {}).get('cls_head') or {}
    if 'classes' not in head:
        return head.get('num_classes')
    try:
        return len(load_classes(head['classes']))
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f'model.cls_head.classes: {error}') from None


def _look_for(listing: Listing, videos: list[Listed]) -> None:
    """Look for a few videos across the list, so that a wrong folder shows at once."""
    some = videos[:: max(1, len(videos) // LOOKED_FOR)]
    missing = [video for video in some if not Path(video.path).exists()]
    if len(missing) > (len(some) - 1 if listing.node.get('on_error') == 'skip' else 0):
        path, entry, _, frames = missing[0]
        what = 'file' if frames is None else 'folder'
        raise ConfigError(
            f'{listing.where}: there is no {what} {path!r} (entry {entry!r} of '
            f'{listing.ann_file}); {len(missing)} of {len(some)} {what}s looked for '
            f'are missing. Correct data_root or data_prefix, or complete the data set; '
            f'tools/analysis/check_videos.py finds all such videos'
        )
    if some[0].frames is not None and not missing:
        _look_into(listing, some[0])


def _look_into(listing: Listing, video: Listed) -> None:
    """Read a few extracted frames, so that a wrong file name shows at once."""
    try:
        video.check(full=False)
    except VideoError as error:
        if listing.node.get('on_error') != 'skip':
            raise ConfigError(
                f'{listing.where}: {video.path} (line {video.entry} of '
                f'{listing.ann_file}): {error}'
            ) from None


def is_local(*paths: str) -> bool:
    """Tell paths from URLs such as 's3://...'; a single letter is a Windows drive."""
    return not any(re.match(r'[\w-]{2,}:', path) for path in paths)
