"""Settings that a config holds in several places, changed in all of them at once.

Both towers hold the architecture and the weights of CLIP. The pipelines of training,
validation and testing all hold the number of frames. ``num_frames=8`` on the command
line changes all of these pipelines. So does a line ``num_frames = 8`` in a config that
inherits the pipelines, which MMEngine alone would leave unchanged.
"""

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mmengine.config import Config

from mmstop.datasets import CaptionTokenize
from mmstop.errors import ConfigError, short
from mmstop.towers import CLIPTower

from .pipelines import kind, output_size
from .schema import Place, enter, target_at, top

__all__ = [
    'SETTINGS',
    'apply_own_settings',
    'change_setting',
    'parts',
    'pipelines',
    'towers',
]

# What each setting changes.
SETTINGS = {
    'arch': 'CLIPViT, CLIPText or CaptionTokenize',
    'weights': 'CLIPViT or CLIPText',
    'num_frames': 'step of a pipeline with a clip_len',
    'image_size': 'pipeline that crops or resizes to a fixed size',
    'max_tokens': 'CaptionTokenize',
}
SIZES = ('short_side', 'scale', 'crop_size', 'size')  # arguments in pixels


class Slot(NamedTuple):
    """A place that holds a setting, and the value to write there."""

    node: dict
    key: str
    value: Any


def change_setting(cfg: Config, name: str, value: Any) -> None:
    """Write a setting to all its places in the config.

    Args:
        name: a key of :data:`SETTINGS`.

    Raises:
        ConfigError: the value is invalid, or the config has no such place.
    """
    counts = name not in ('arch', 'weights')
    if counts and not (type(value) is int and value > 0):
        raise ConfigError(
            f'{name}={short(value)}, expected a whole number of at least 1'
        )
    slots = list(_slots(cfg, name, value))
    if not slots:
        raise ConfigError(
            f'{name}={short(value)} would change nothing: the config has no '
            f'{SETTINGS[name]}'
        )
    for node, key, new in slots:
        node[key] = new
    if name in cfg:  # the variable that it was read from
        cfg[name] = value


def apply_own_settings(cfg: Config) -> None:
    """Apply settings that a config file defines without using them itself.

    MMEngine evaluates a base config before it reads the file that inherits it, so a
    line such as ``num_frames = 8`` would have no effect.

    Raises:
        ConfigError: the value is invalid.
    """
    stated = [name for name in SETTINGS if name in cfg]
    if not stated or not str(cfg.filename).endswith('.py'):
        return
    unused = _unused(Path(cfg.filename))
    for name in stated:
        slots = _slots(cfg, name, cfg[name]) if name in unused else ()
        if any(node.get(key) != new for node, key, new in slots):
            change_setting(cfg, name, cfg[name])


def towers(cfg: Config) -> Iterator[tuple[str, dict, type[CLIPTower]]]:
    """Find the configs of CLIP's towers, with the place and class of each."""
    for place, node in parts(cfg):
        if 'arch' in node:  # looking up all types takes long
            with suppress(ConfigError):  # an unknown type is reported by check_config
                target = target_at(node, place)
                if isinstance(target, type) and issubclass(target, CLIPTower):
                    yield place.path, node, target


def parts(cfg: Config) -> Iterator[tuple[Place, dict]]:
    """Find all dicts with a type."""
    for key in cfg:
        yield from _parts(cfg[key], enter(top(cfg), key))


def pipelines(cfg: Config) -> Iterator[tuple[str, list]]:
    """Find all pipelines and where they are."""
    for key in cfg:
        yield from _pipelines(cfg[key], key)


def _parts(node: Any, place: Place) -> Iterator[tuple[Place, dict]]:
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _parts(child, enter(place, str(i)))
    if not isinstance(node, dict):
        return
    place = place._replace(scope=node.get('_scope_', place.scope))
    if 'type' in node:
        yield place, node
    for key, child in node.items():
        if isinstance(child, (dict, list, tuple)):
            yield from _parts(child, enter(place, str(key)))


def _pipelines(node: Any, path: str) -> Iterator[tuple[str, list]]:
    if isinstance(node, (list, tuple)):
        if path.endswith('pipeline') and all(isinstance(s, dict) for s in node):
            yield path, list(node)
        for i, child in enumerate(node):
            yield from _pipelines(child, f'{path}.{i}')
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _pipelines(child, f'{path}.{key}')


def _slots(cfg: Config, name: str, value: Any) -> Iterator[Slot]:
    if name == 'num_frames':
        for _, steps in pipelines(cfg):
            yield from (Slot(s, 'clip_len', value) for s in steps if 'clip_len' in s)
    if name == 'image_size':
        for _, steps in pipelines(cfg):
            yield from _sizes(steps, value)
    if name in ('arch', 'weights'):
        yield from (Slot(node, name, value) for _, node, _ in towers(cfg))
    if name in ('arch', 'max_tokens'):
        for _, node in parts(cfg):
            if kind(node) == CaptionTokenize.__name__:
                yield Slot(node, name, value)


def _sizes(steps: list[dict], size: int) -> Iterator[Slot]:
    """Scale all sizes of a pipeline so that its frames become ``size`` pixels."""
    found = output_size(steps)
    if found is None:
        return
    ratio = size / min(found)
    for step in steps:
        for key in SIZES:
            if key in step and (new := _scaled(step[key], ratio)) is not None:
                yield Slot(step, key, new)


def _scaled(pixels: Any, ratio: float) -> Any:
    """Scale pixels, where a negative number means "unspecified"; None for a factor."""
    if isinstance(pixels, (list, tuple)):
        return type(pixels)(p if p < 0 else round(p * ratio) for p in pixels)
    return round(pixels * ratio) if isinstance(pixels, int) else None


def _unused(path: Path, read: Optional[set[str]] = None) -> set[str]:
    """Name the variables that a config file or its bases define but never use.

    Args:
        read: the variables that files inheriting this one read from it.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {n.id for n in names if isinstance(n.ctx, ast.Load)} | (read or set())
    inherited = read | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == '_base_'
    }
    stated: dict[str, ast.expr] = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    unused = set(stated) - read
    if '_base_' in stated:
        bases = ast.literal_eval(stated['_base_'])
        for base in [bases] if isinstance(bases, str) else bases:
            if (inner := path.parent / base).suffix == '.py' and inner.is_file():
                unused |= _unused(inner, inherited) - set(stated)
    return unused
