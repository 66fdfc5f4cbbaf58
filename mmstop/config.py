"""Read a config and change it as the command line says.

``num_frames=8`` and the like change all places that hold a setting
(``config_settings.py``), and ``val_from_train=0.1`` the data sets of training and
validation together.
"""

import argparse
import copy
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Optional, Union

from mmengine.config import Config, DictAction

from mmstop.config_parts import (
    RESERVED,
    RUNNER_KEYS,
    SPLITS,
    Part,
    suggest,
    walk,
)
from mmstop.config_settings import SETTINGS, apply_own_settings, change_setting
from mmstop.datasets import CheckedDataset
from mmstop.datasets.listing import VIDEOS
from mmstop.errors import ConfigError, short

__all__ = ['KeyValues', 'datasets', 'hold_out', 'load_config', 'use_rawframes']

# CPython 3.11 may fail with a SystemError where two threads parse code at a time.
_READING = Lock()


class KeyValues(DictAction):
    """MMEngine's KEY=VALUE pairs, which report anything else as a usage error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Union[str, Sequence[Any], None],
        option_string: Optional[str] = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, IndexError, RecursionError, ValueError) as error:
            raise argparse.ArgumentError(
                self, f'expected KEY=VALUE, got {values} ({error})'
            ) from None


def load_config(
    path: str, options: Optional[dict] = None, rawframes: bool = False
) -> Config:
    """Read a config and merge the ``--cfg-options``, {'a.b.c': value}.

    Options named in ``SETTINGS`` are applied first, in every place that holds them.

    Args:
        rawframes: before that, make it read extracted frames instead of videos.

    Raises:
        ConfigError: the file does not exist or is not valid Python, a module that it
            imports is missing, or an option is neither in the config nor an argument
            of the class that it would configure.
    """
    if not Path(path).is_file():
        raise ConfigError(f'config {path!r}: there is no such file')
    try:
        cfg = _read(path)
    except ConfigError:
        raise
    except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f'config {path!r} cannot be read: {type(error).__name__}: {error}'
        ) from error
    if rawframes:
        use_rawframes(cfg)
    apply_own_settings(cfg)
    options = dict(options or {})
    if HELD_OUT in options:
        cfg[HELD_OUT] = options.pop(HELD_OUT)
    for name in [option for option in options if option in SETTINGS]:
        change_setting(cfg, name, options.pop(name))
    parts = {part.path: part for part in walk(cfg)}
    for option in options:
        _check_option(option, options, parts)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f'--cfg-options {" ".join(options)}: {error.args[0]}; an option sets '
            f'a key of a dict, which may be in a list (a.0.b=1), or a whole list'
        ) from error
    if HELD_OUT in cfg:  # last, since validation copies what training reads
        hold_out(cfg, cfg[HELD_OUT])
    return cfg


def _read(path: str) -> Config:
    """Read a config, whose own modules may be in the working directory."""
    try:
        return _read_once(path)
    except ImportError:
        # Last, so that nothing there shadows an installed package. Data workers and
        # classes that are imported later find it too.
        sys.path.append(os.getcwd())
    try:
        return _read_once(path)
    except ImportError as error:
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise ConfigError(
            f'config {path!r} imports what is not there: {cause}; install it, or start '
            f'in the folder that it lies in, or add this folder to PYTHONPATH'
        ) from error


def _read_once(path: str) -> Config:
    with _READING:
        cfg = Config.fromfile(path)
    if getattr(cfg, '_imported_names', None):  # imported on access
        list(walk(cfg))
    return cfg


# --- Options ------------------------------------------------------------------------


def _check_option(option: str, options: dict, parts: dict[str, Part]) -> None:
    """Refuse a new key unless the class of its dict has an argument of that name."""
    keys = option.split('.')
    if keys[0] not in RUNNER_KEYS and keys[0] in parts[''].node:
        raise ConfigError(
            f'--cfg-options {option}: {keys[0]} is a helper variable, used up when the '
            f'config file was read, so that changing it has no effect; set the keys '
            f'that were made from it instead'
        )
    paths = ['.'.join(keys[:depth]) for depth in range(len(keys))]
    depth = max(depth for depth, path in enumerate(paths) if path in parts)
    part, key = parts[paths[depth]], keys[depth]
    new_part = f'{part.path}.{key}.type' in options  # checked when it is merged
    if key in part.node or key in RESERVED or new_part:
        return
    kind = options.get(f'{part.path}.type', part.node.get('type'))
    names: Optional[set[str]] = RUNNER_KEYS
    if part.path:
        names = part._replace(node={**part.node, 'type': kind}).arguments()
    if names is None and kind is not None:  # a class that takes any
        return
    if key not in (names or ()):
        raise ConfigError(
            f'--cfg-options {option}: {part.path or "the config"} has no {key!r}'
            f'{suggest(key, {*(names or ()), *part.node} - RESERVED)}'
        )


# --- Validation ---------------------------------------------------------------------

HELD_OUT = 'val_from_train'


def hold_out(cfg: Config, share: float) -> None:
    """Hold out a share of the training videos and validate on these, in place.

    The validation set becomes that of training with the pipeline of validation. The
    test set stays as it is.

    Args:
        share: of the videos, in (0, 1); see ``CheckedDataset``, which draws them.

    Raises:
        ConfigError: the share is out of range, or training or validation does not have
            exactly one data set that can hold videos out.
    """
    if isinstance(share, bool) or not isinstance(share, float) or not 0 < share < 1:
        raise ConfigError(
            f'{HELD_OUT}={short(share)}, expected a share of the training videos '
            f'between 0 and 1, such as 0.1'
        )
    nodes = []
    for split in ('train', 'val'):
        found = list(datasets(cfg, split))
        if len(found) != 1 or not found[0].is_a(CheckedDataset):
            kinds = ', '.join(part.kind for part in found) or 'none'
            raise ConfigError(
                f'{HELD_OUT}={share}: the data sets of {split}_dataloader are {kinds}, '
                f'expected exactly one CheckedVideoDataset, CheckedRawframeDataset or '
                f'VideoCaptionDataset'
            )
        nodes.append(found[0].node)
    train, val = nodes
    train[HELD_OUT] = share
    held_out = copy.deepcopy({**train, 'pipeline': val['pipeline'], 'test_mode': True})
    held_out.pop('on_error', None)  # validation skips no video
    # A copy, since a config may use one data loader for validation and for testing.
    cfg.val_dataloader = {**copy.deepcopy(cfg.val_dataloader), 'dataset': held_out}


# --- Extracted frames ---------------------------------------------------------------


def datasets(cfg: Config, split: str) -> Iterator[Part]:
    """Find the data sets of a split, which may be wrapped or joined."""
    for part in walk(cfg):
        inside = re.match(rf'{split}_dataloader(\.datasets?(\.\d+)?)+$', part.path)
        if inside and isinstance(part.node.get('ann_file'), str):
            yield part


def use_rawframes(cfg: Config) -> None:
    """Switch a config's data sets of labelled videos to raw frames, in place.

    Lists and folders get the names that MMAction2's scripts give them: the ending
    'videos' becomes 'rawframes'. The rest of a data set and its pipeline stays the
    same.

    Raises:
        ConfigError: the config has no such data set.
    """
    found = [
        part.node
        for split in SPLITS
        for part in datasets(cfg, split)
        if part.target() in VIDEOS
    ]
    if not found:
        raise ConfigError(
            f'--rawframes: {cfg.filename} has no data set of videos and labels '
            f'(CheckedVideoDataset), and captions are read with video files only'
        )
    for node in found:
        prefix = (node.get('data_prefix') or {}).get('video', '')
        node['type'] = 'CheckedRawframeDataset'
        node['ann_file'] = _renamed(node['ann_file'])
        node['data_prefix'] = dict(img=_renamed(prefix))
        node['pipeline'] = [
            dict(type='CheckedRawFrameDecode') if kind.endswith('Decode') else step
            for step in node['pipeline']
            if not (kind := Part('', step).kind).endswith('Init')
        ]


def _renamed(path: str) -> str:
    """Replace 'videos' with 'rawframes' at the end of a file's or folder's name."""
    name = PurePosixPath(path).name
    return path[: len(path) - len(name)] + re.sub(r'videos(?=$|\.)', 'rawframes', name)
