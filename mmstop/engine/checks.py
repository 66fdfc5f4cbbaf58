"""Early checks of a config: mistyped keys and missing files, before anything is built.

MMEngine finds a mistyped argument when it builds the part, a missing annotation file
after it has built the model, and a mistyped option never. These checks read the
signatures of the classes that a config names, and look for the files that it names.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from mmstop.towers import CLIPTower

from .schema import (
    FREE,
    MARKS,
    PLAIN,
    RUNNER_KEYS,
    TYPED,
    ConfigError,
    Place,
    arguments_at,
    enter,
    suggest,
    target_at,
    top,
)

__all__ = ['ConfigError', 'check_config', 'load_config']


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config and merge what ``--cfg-options`` gave, {'a.b.c': value}.

    Raises:
        ConfigError: there is no such file, or an option is not in the config and no
            argument of the class that it would configure.
    """
    if not Path(path).is_file():
        raise ConfigError(f'config {path!r}: there is no such file')
    cfg = Config.fromfile(path)
    if options:
        for option in options:
            _check_option(cfg, option, options)
        cfg.merge_from_dict(options)
    return cfg


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Check types, arguments and files of a config, building nothing.

    Args:
        cfg: the config as it will run.
        splits: whose files to look for, of 'train', 'val' and 'test'.

    Raises:
        ConfigError: the first fault found.
    """
    for key in cfg:
        if key in RUNNER_KEYS:
            _check_node(cfg[key], enter(top(cfg), key))
        elif near := difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.9):
            raise ConfigError(
                f'{key}: nothing reads this key; did you mean {near[0]!r}?'
            )
    _check_checkpoint(cfg.get('load_from'))
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for path, dataset in _datasets(
            loader.get('dataset'), f'{split}_dataloader.dataset'
        ):
            _check_dataset_files(path, dataset)


# --- Options ------------------------------------------------------------------------


def _check_option(cfg: Config, option: str, options: dict) -> None:
    """Follow an option into the config, to a key that exists or a new argument."""
    keys = option.split('.')
    if keys[0] not in RUNNER_KEYS:
        raise ConfigError(_no_such_key(cfg, option))
    node: Any = cfg
    place = top(cfg)
    for depth, key in enumerate(keys, start=1):
        if isinstance(node, (list, tuple)):
            if not (key.isdecimal() and int(key) < len(node)):
                raise ConfigError(
                    f'--cfg-options {option}: {place.path} is a list of {len(node)}; '
                    f'after it comes a number from 0 to {len(node) - 1}, not {key!r}'
                )
            if depth == len(keys) and not isinstance(options[option], dict):
                raise ConfigError(
                    f'--cfg-options {option}: MMEngine cannot replace one item of a '
                    f'list; set {place.path} to the whole list instead'
                )
            node, place = node[int(key)], enter(place, key)
        elif isinstance(node, (dict, Config)):
            if key not in node:
                if key not in MARKS:
                    _check_new_key(key, node, place, option, options)
                return
            node, place = node[key], enter(place, key)
        else:
            raise ConfigError(
                f'--cfg-options {option}: {place.path} is {node!r} and has no keys'
            )


def _check_new_key(
    key: str, node: dict, place: Place, option: str, options: dict
) -> None:
    """Allow a new key where the class that is configured has such an argument."""
    if not place.path:  # a key of the runner, which the config file leaves out
        return
    if f'{place.path}.{key}.type' in options:  # a new part, checked when it is merged
        return
    node = dict(node)
    if f'{place.path}.type' in options:
        node['type'] = options[f'{place.path}.type']
    if FREE.search(place.path.split('.')[-1]) and place.path not in PLAIN:
        return
    names = arguments_at(node, place)
    if names is None:
        if 'type' in node:
            return
        names = set()
    if key not in names:
        raise ConfigError(
            f'--cfg-options {option}: {place.path} has no {key!r}'
            f'{suggest(key, names | set(node) - MARKS)}'
        )


def _no_such_key(cfg: Config, option: str) -> str:
    first, _, rest = option.partition('.')
    if first not in cfg:
        return (
            f'--cfg-options {option}: the config has no {first!r}'
            f'{suggest(first, RUNNER_KEYS)}'
        )
    copies = [
        path
        for key in cfg
        if key in RUNNER_KEYS
        for path in _copies_of(cfg[first], cfg[key], key)
    ]
    instead = ' or '.join(f'{path}.{rest}' if rest else path for path in copies[:3])
    return (
        f'--cfg-options {option}: {first} is a helper variable, used up when the '
        f'config file was read, so that changing it has no effect; set '
        f'{instead or "the keys that were made from it"} instead'
    )


def _copies_of(value: Any, node: Any, path: str) -> Iterator[str]:
    """Find the places that hold ``value``."""
    if type(node) is type(value) and node == value:
        yield path
    elif isinstance(node, dict):
        for key, child in node.items():
            if isinstance(key, str):  # others are data, such as label maps
                yield from _copies_of(value, child, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _copies_of(value, child, f'{path}.{i}')


# --- Nodes and files ----------------------------------------------------------------


def _check_node(node: Any, place: Place) -> None:
    """Check a value and all below it."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            _check_node(child, enter(place, str(i)))
    if not isinstance(node, dict):
        return
    place = place._replace(scope=node.get('_scope_', place.scope))
    if 'type' not in node and TYPED.search(place.path):
        raise ConfigError(
            f"{place.path} has no 'type'; its keys are {', '.join(map(str, node))}"
        )
    names = arguments_at(node, place)
    for key, child in node.items():
        if names is not None and key not in names | MARKS:
            owner = node.get('type', place.path)
            owner = owner if isinstance(owner, str) else owner.__name__
            raise ConfigError(
                f'{place.path}.{key}: {owner} takes no {key!r}{suggest(key, names)}'
            )
        if not FREE.search(str(key)):
            _check_node(child, enter(place, str(key)))
    target = target_at(node, place)
    if isinstance(target, type) and issubclass(target, CLIPTower):
        _check_tower_files(node, place.path)


def _check_tower_files(tower: dict, path: str) -> None:
    arch, weights = tower.get('arch'), tower.get('weights')
    if isinstance(arch, str) and arch.endswith('.json') and not Path(arch).is_file():
        raise ConfigError(f'{path}.arch: there is no file {arch!r}')
    if not isinstance(weights, str) or Path(weights).is_file():
        return
    if '/' in weights or weights.endswith(('.pt', '.pth', '.bin', '.safetensors')):
        raise ConfigError(
            f'{path}.weights: there is no file {weights!r}; give the path of a '
            f"downloaded file, or a tag of open_clip such as 'openai'"
        )


def _check_checkpoint(path: Optional[str]) -> None:
    if path is not None and _is_local(path) and not Path(path).is_file():
        raise ConfigError(f'checkpoint {path!r}: there is no such file')


def _datasets(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Find the datasets in a dataloader's, which may be wrapped or joined."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _datasets(child, f'{path}.{i}')
    elif isinstance(node, dict):
        if 'ann_file' in node:
            yield path, node
        for key in ('dataset', 'datasets'):
            yield from _datasets(node.get(key), f'{path}.{key}')


def _check_dataset_files(path: str, dataset: dict) -> None:
    """Look for the annotation file and the folders, joined as ``BaseDataset`` does."""
    data_root = dataset.get('data_root') or ''
    remedy = (
        f'prepare the data set (tools/data), or change {path}.ann_file, data_root or '
        f'data_prefix (data_root is {data_root!r})'
    )
    ann_file = dataset['ann_file']
    if isinstance(ann_file, str) and ann_file and _is_local(data_root, ann_file):
        file = Path(data_root, ann_file)
        if not file.is_file():
            raise ConfigError(f"{path}.ann_file: there is no file '{file}'; {remedy}")
    for key, prefix in (dataset.get('data_prefix') or {}).items():
        if isinstance(prefix, str) and prefix and _is_local(data_root, prefix):
            folder = Path(data_root, prefix)
            if not folder.is_dir():
                raise ConfigError(
                    f"{path}.data_prefix.{key}: there is no folder '{folder}'; {remedy}"
                )


def _is_local(*paths: str) -> bool:
    """Tell paths from addresses such as 's3://...'; one letter is a Windows drive."""
    return not any(re.match(r'[\w-]{2,}:', path) for path in paths)
