"""Make a config for video files read frames that were extracted from them."""

import re
from pathlib import PurePosixPath
from typing import Any

from mmaction.datasets import VideoDataset
from mmengine import registry as root
from mmengine.config import Config

from mmstop.datasets import CheckedVideoDataset
from mmstop.errors import ConfigError

from .data_checks import datasets
from .schema import Place, target_at, top

__all__ = ['use_rawframes']


def use_rawframes(cfg: Config) -> None:
    """Switch a config's data sets of labelled videos to raw frames, in place.

    Lists and folders get the names that MMAction2's scripts give them: the ending
    'videos' becomes 'rawframes'. The rest of a data set and its pipeline stays the
    same.

    Raises:
        ConfigError: the config has no such data set.
    """
    found = False
    for split in ('train', 'val', 'test'):
        where = f'{split}_dataloader.dataset'
        loader = cfg.get(f'{split}_dataloader') or {}
        for path, node in datasets(loader.get('dataset'), where):
            kind = target_at(node, Place(path, root.DATASETS, top(cfg).scope))
            if kind in (CheckedVideoDataset, VideoDataset):
                found = True
                _change(node)
    if not found:
        raise ConfigError(
            f'--rawframes: {cfg.filename} has no data set of videos and labels '
            f'(CheckedVideoDataset), and captions are read with video files only'
        )


def _change(node: Any) -> None:
    node['type'] = 'CheckedRawframeDataset'
    node['ann_file'] = _renamed(node['ann_file'])
    node['data_prefix'] = {
        'img': _renamed((node.get('data_prefix') or {}).get('video', ''))
    }
    node['pipeline'] = [
        _read_step(step)
        for step in node['pipeline']
        if not str(step['type']).endswith('Init')
    ]


def _renamed(path: str) -> str:
    """Replace 'videos' with 'rawframes' at the end of a file's or folder's name."""
    name = PurePosixPath(path).name
    return path[: len(path) - len(name)] + re.sub(r'videos(?=$|\.)', 'rawframes', name)


def _read_step(step: dict) -> dict:
    decodes = str(step['type']).endswith('Decode')
    return dict(type='CheckedRawFrameDecode') if decodes else step
