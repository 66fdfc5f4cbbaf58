"""Check the lists of videos that a config names, before anything is built.

The files must exist, their labels must fit the classes, some of their videos must be
there, and no training video may be listed for validation or testing as well.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Optional

from mmengine.config import Config

from mmstop.config import datasets
from mmstop.config_parts import Part, walk
from mmstop.datasets import (
    AnnotationError,
    VideoCaptionDataset,
    VideoError,
    load_classes,
)
from mmstop.datasets.listing import RAWFRAMES, Listed, Listing
from mmstop.errors import ConfigError

__all__ = ['check_lists', 'is_local', 'listings']

LOOKED_FOR = 16  # videos per list; checking all takes minutes on a network disk

Videos = Optional[list[Listed]]  # None if the format of the list is unknown


def check_lists(cfg: Config, splits: Sequence[str]) -> None:
    """Check the lists of some splits, and training against validation and testing.

    Raises:
        ConfigError: the first fault found.
    """
    lists = {
        split: [(part, _check_list(cfg, split, part)) for part in listings(cfg, split)]
        for split in splits
    }
    if train := lists.pop('train', None):
        held_out = [pair for pairs in lists.values() for pair in pairs]
        if 'test' not in splits:  # then its files need not be there
            held_out += [(part, _read(part)) for part in _present(cfg, 'test')]
        _check_leaks(train, held_out)


# --- Files --------------------------------------------------------------------------


def is_local(*paths: str) -> bool:
    """Tell paths from URLs such as 's3://...'; a single letter is a Windows drive."""
    return not any(re.match(r'[\w-]{2,}:', path) for path in paths)


def listings(cfg: Config, split: str) -> Iterator[Listing]:
    """Find the data sets of a split whose annotation files are on a local disk.

    Raises:
        ConfigError: an annotation file or folder does not exist.
    """
    for part in datasets(cfg, split):
        if listing := _find_listing(part):
            yield listing


def _present(cfg: Config, split: str) -> Iterator[Listing]:
    """Find the data sets of a split whose files exist."""
    for part in datasets(cfg, split):
        with suppress(ConfigError):
            if listing := _find_listing(part):
                yield listing


def _find_listing(part: Part) -> Optional[Listing]:
    prefixes = part.node.get('data_prefix') or {}
    if not isinstance(prefixes, dict):
        raise ConfigError(
            f'{part.path}.data_prefix is {prefixes!r}, expected a dict such as '
            f'dict(video={prefixes!r})'
        )
    data_root, ann_file = part.node.get('data_root') or '', part.node['ann_file']
    files = {'ann_file': ann_file}
    files |= {f'data_prefix.{key}': prefix for key, prefix in prefixes.items()}
    for key, name in files.items():
        path, is_file = Path(data_root, name), key == 'ann_file'
        there = path.is_file() if is_file else path.is_dir()
        if name and is_local(data_root, name) and not there:
            raise ConfigError(
                f'{part.path}.{key}: there is no {"file" if is_file else "folder"} '
                f"'{path}'; prepare the data set (tools/data), or change "
                f'{part.path}.ann_file, data_root or data_prefix (data_root is '
                f'{data_root!r})'
            )
    prefix = prefixes.get('img' if part.is_a(*RAWFRAMES) else 'video', '')
    if not ann_file or not is_local(data_root, ann_file, prefix):
        return None
    paths = Path(data_root, ann_file), Path(data_root, prefix)
    return Listing(part.path, part.node, part.target(), *paths)


# --- Lists --------------------------------------------------------------------------


def _read(listing: Listing) -> Videos:
    try:
        return listing.videos()
    except AnnotationError as error:
        raise ConfigError(f'{listing.where}: {error}') from error


def _check_list(cfg: Config, split: str, listing: Listing) -> Videos:
    """Read the annotation file of a data set and look for some of its videos."""
    videos = _read(listing)
    if videos is None:
        return None
    labelled = [video for video in videos if video.labels]
    if any(label != -1 for video in labelled for label in video.labels):
        _check_classes(cfg, listing, labelled)
    elif not listing.is_a(VideoCaptionDataset):
        _check_unlabelled(cfg, split, listing)
    _look_for(listing, videos)
    return videos


def _check_leaks(
    train: Sequence[tuple[Listing, Videos]], held_out: Sequence[tuple[Listing, Videos]]
) -> None:
    """Reject training videos that are also listed for validation or testing.

    Videos are the same if their normalised paths are. ViFi-CLIP's 16-shot lists, for
    example, share 233 videos with the second test split of HMDB51.
    """
    trained = [(own, _with_paths(videos)) for own, videos in train]
    for other, kept in held_out:
        entries = {path: video.entry for path, video in _with_paths(kept)}
        for own, videos in trained:
            if _share_a_list(own, other):
                continue
            shared = [pair for pair in videos if pair[0] in entries]
            if shared:
                path, video = shared[0]
                raise ConfigError(
                    f'{own.where}: {video.path!r} (entry {video.entry!r} of '
                    f'{own.ann_file}) is also in {other.ann_file} (entry '
                    f'{entries[path]!r}), the list of {other.where}; '
                    f'{len(shared):,} training videos are; remove them from one of '
                    f'the lists, or test on videos that were not trained on'
                )


def _with_paths(videos: Videos) -> list[tuple[str, Listed]]:
    return [(os.path.abspath(video.path), video) for video in videos or ()]


def _share_a_list(train: Listing, val: Listing) -> bool:
    """Tell whether ``val_from_train`` parts a list between two data sets."""
    share = train.node.get('val_from_train')
    same = (val.ann_file, val.node.get('val_from_train')) == (train.ann_file, share)
    return bool(share and same and val.node.get('test_mode'))


def _check_unlabelled(cfg: Config, split: str, listing: Listing) -> None:
    """Reject evaluation on a list without labels, where every prediction is wrong."""
    paths = re.compile(rf'{split}_evaluator(\.metrics)?(\.\d+)?$')
    metrics = {part.kind for part in walk(cfg) if paths.match(part.path)}
    if metrics := metrics - {'', 'DumpResults', 'Evaluator'}:
        raise ConfigError(
            f'{listing.where}: {listing.ann_file} has no labels, so that '
            f'{", ".join(sorted(metrics))} would find every prediction wrong; add a '
            f'label to each line, or only predict: tools/test.py ... --dump FILE.pkl '
            f'--cfg-options test_evaluator=[]'
        )


def _check_classes(cfg: Config, listing: Listing, videos: list[Listed]) -> None:
    """Compare the labels of a list with the classes of the model, if both exist."""
    num_classes = _num_classes(cfg)
    if num_classes is None:
        return
    own = listing.node.get('num_classes')
    if listing.node.get('multi_class') and own != num_classes:
        raise ConfigError(
            f'{listing.where}.num_classes is {own}, but the model has {num_classes} '
            f'classes; set it to {num_classes}'
        )
    last = max(videos, key=lambda video: max(video.labels))
    labels = {label for video in videos for label in video.labels}
    if max(labels) >= num_classes:
        raise ConfigError(
            f'{listing.where}: line {last.entry} of {listing.ann_file} has the label '
            f'{max(labels)} ({last.path!r}), but the model has {num_classes} classes, '
            f'from 0 to {num_classes - 1}. Correct the line, count labels from 0, or '
            f'give the model the classes of this data set'
        )
    # A test list may lack a class by chance, but is unlikely to lack only the first.
    few = num_classes - len(labels) <= max(1, num_classes // 10)
    training = not listing.node.get('test_mode')
    if min(labels) > 0 and num_classes > 2 and (training or few):
        raise ConfigError(
            f'{listing.where}: {listing.ann_file} has labels from {min(labels)} to '
            f'{max(labels)} and none is 0; they seem to be counted from 1: subtract 1 '
            f'from each, or, if class 0 has no video, take it out of the classes'
        )
    if training and max(labels) < num_classes - 1:
        warnings.warn(
            f'{listing.ann_file}: the highest label is {max(labels)}, but the model '
            f'has {num_classes} classes; are they the classes of this data set?',
            stacklevel=2,
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
    skips = listing.node.get('on_error') == 'skip'
    some = videos[:: max(1, len(videos) // LOOKED_FOR)]
    missing = [video for video in some if not Path(video.path).exists()]
    if len(missing) > (len(some) - 1 if skips else 0):
        path, entry, _, frames = missing[0]
        what = 'file' if frames is None else 'folder'
        raise ConfigError(
            f'{listing.where}: there is no {what} {path!r} (entry {entry!r} of '
            f'{listing.ann_file}); {len(missing)} of {len(some)} {what}s looked for '
            f'are missing. Correct data_root or data_prefix, or complete the data set; '
            f'tools/analysis/check_videos.py finds all such videos'
        )
    if some[0].frames is not None and not skips:  # so that a wrong file name shows
        try:
            some[0].check(full=False)
        except VideoError as error:
            raise ConfigError(
                f'{listing.where}: {some[0].path} (line {some[0].entry} of '
                f'{listing.ann_file}): {error}'
            ) from None
