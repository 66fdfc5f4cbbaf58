"""Read a config and apply the changes from the command line."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from mmstop.errors import ConfigError

from .rawframes import use_rawframes
from .schema import (
    FREE,
    MARKS,
    PLAIN,
    RUNNER_KEYS,
    Place,
    arguments_at,
    enter,
    suggest,
    top,
)
from .settings import SETTINGS, apply_own_settings, change_setting, parts

__all__ = ['SCALARS', 'load_config']

SCALARS = (str, int, float)  # not a dict; not None either, which removes a part


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
    for name in [option for option in options if option in SETTINGS]:
        change_setting(cfg, name, options.pop(name))
    for option in options:
        _check_option(cfg, option, options)
    cfg.merge_from_dict(options)
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
    cfg = Config.fromfile(path)
    if getattr(cfg, '_imported_names', None):  # imported on access
        list(parts(cfg))
    return cfg


# --- Options ------------------------------------------------------------------------


def _check_option(cfg: Config, option: str, options: dict) -> None:
    """Follow an option into the config, to an existing key or a new argument."""
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
    replaced = isinstance(node, dict) and isinstance(options[option], SCALARS)
    if replaced and option != 'compile':  # which may be True or a dict
        raise ConfigError(
            f'--cfg-options {option}: it is a dict; set its keys instead, such as '
            f'{option}.{next(iter(node), "KEY")}, not {option} itself'
        )


def _check_new_key(
    key: str, node: dict, place: Place, option: str, options: dict
) -> None:
    """Allow a new key if the configured class has an argument of that name."""
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
            if isinstance(key, str):  # other keys are data, such as label maps
                yield from _copies_of(value, child, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _copies_of(value, child, f'{path}.{i}')
