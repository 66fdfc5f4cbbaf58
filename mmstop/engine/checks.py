"""Early checks of a config: mistyped keys and missing files, before anything is built.

MMEngine finds a mistyped argument only when it builds the part, and a missing
annotation file only after it has built the model. It never finds a mistyped option.
These checks read the signatures of the classes that a config names, and look for the
files that it names.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmstop.compat import CheckpointError, read_structure
from mmstop.errors import ConfigError
from mmstop.towers import CLIPTower

from .agreement import check_agreement
from .data_checks import check_data, is_local
from .loading import SCALARS, load_config
from .schema import (
    FREE,
    MARKS,
    PLAIN,
    REGISTRIES,
    RUNNER_KEYS,
    TYPED,
    Place,
    arguments_at,
    enter,
    suggest,
    target_at,
    top,
)

__all__ = ['ConfigError', 'check_config', 'load_config']


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Check the types, arguments and files of a config without building anything.

    Args:
        cfg: the config as it will run.
        splits: the splits whose files to look for, from 'train', 'val' and 'test'.

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
    check_agreement(cfg)
    start, resume = cfg.get('load_from'), bool(cfg.get('resume'))
    if resume and start is None and cfg.get('work_dir'):
        start = find_latest_checkpoint(cfg.work_dir)
    _check_checkpoint(start, resume)
    for split in splits:
        check_data(cfg, split)


# --- Nodes and files ----------------------------------------------------------------


def _check_node(node: Any, place: Place) -> None:
    """Check a value and everything below it."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            _check_node(child, enter(place, str(i)))
        _check_sizes([child for child in node if isinstance(child, dict)], place.path)
    if not isinstance(node, dict):
        if isinstance(node, SCALARS) and _holds_parts(place.path):
            raise ConfigError(
                f'{place.path} is {node!r}, expected a dict, or a list of dicts'
            )
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


def _holds_parts(path: str) -> bool:
    return path in REGISTRIES or path in PLAIN or bool(TYPED.search(path))


def _check_sizes(steps: list[dict], path: str) -> None:
    """Reject steps that shrink frames in one way, then resize them in another."""
    read = next((step for step in steps if step.get('short_side')), None)
    resize = next((s for s in steps if str(s.get('type')).endswith('Resize')), None)
    if read is None or resize is None:
        return
    asked = (-1, read['short_side']), read.get('interpolation', 'bilinear'), True
    scale, how = resize.get('scale'), resize.get('interpolation', 'bilinear')
    scale = tuple(scale) if isinstance(scale, (list, tuple)) else scale
    if (scale, how, resize.get('keep_ratio', True)) != asked:
        raise ConfigError(
            f'{path}: frames are made small for Resize(scale={asked[0]}, '
            f'interpolation={asked[1]!r}), and it has scale={scale}, '
            f'interpolation={how!r}; give short_side and interpolation of '
            f'CheckedDecordInit the same values, or leave them out'
        )


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


def _check_checkpoint(path: Optional[str], resume: bool) -> None:
    """Read the contents of a checkpoint except for the numbers, which is fast."""
    if path is None or not is_local(path):
        return
    if Path(path).is_dir():
        raise ConfigError(f'checkpoint {path!r} is a folder; name a file in it')
    if not Path(path).is_file():
        raise ConfigError(f'checkpoint {path!r}: there is no such file')
    try:
        content = read_structure(path)
    except CheckpointError as error:
        raise ConfigError(f'checkpoint {error}') from None
    if not isinstance(content, dict):
        raise ConfigError(
            f'checkpoint {path!r} holds a {type(content).__name__}, expected a dict of '
            f"named tensors; save it as torch.save({{'state_dict': ...}}, path)"
        )
    if resume and not {'meta', 'message_hub'} <= content.keys():
        raise ConfigError(
            f'checkpoint {path!r} holds weights only, no run to resume; to start a new '
            f'one from them say load_from={path!r} and resume=False'
        )
