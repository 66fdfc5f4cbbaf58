"""Change a setting of a config in all of its places.

Both towers hold the architecture and the weights of CLIP; the pipelines of training,
validation and testing all hold the number of frames. ``num_frames=8`` on the command
line changes all of these pipelines. So does a line ``num_frames = 8`` in a config that
inherits the pipelines, which MMEngine alone would leave unchanged.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from mmengine.config import Config

from mmstop.config_parts import Part, pipelines, towers, walk
from mmstop.errors import ConfigError, short

__all__ = ['SETTINGS', 'apply_own_settings', 'change_setting', 'output_size']

# What each setting changes.
SETTINGS = {
    'arch': 'CLIPViT, CLIPText or CaptionTokenize',
    'weights': 'CLIPViT or CLIPText',
    'num_frames': 'step of a pipeline with a clip_len',
    'image_size': 'pipeline that crops or resizes to a fixed size',
    'max_tokens': 'CaptionTokenize',
}
PIXELS = ('short_side', 'scale', 'crop_size', 'size')  # arguments in pixels


Slot = tuple[dict, str, Any]  # a dict, a key and the value to write there


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
    """Apply settings that a config file states after its base has used them.

    MMEngine evaluates a base config before it reads the file that inherits it, so a
    line such as ``num_frames = 8`` would have no effect.

    Raises:
        ConfigError: the value is invalid.
    """
    for name in SETTINGS:
        if name in cfg and _is_unused(name, cfg.text):
            slots = _slots(cfg, name, cfg[name])
            if any(node.get(key) != new for node, key, new in slots):
                change_setting(cfg, name, cfg[name])


def _is_unused(name: str, text: str) -> bool:
    """Tell whether a config that inherits another has no use for a variable of its own.

    Args:
        text: all files of the config as MMEngine joins them, bases first and each after
            a line with its path.
    """
    code = re.sub(r'#.*|^.*\.py$', '', text, flags=re.M)
    stated = re.split(rf'^{name}\s*=', code, flags=re.M)
    used = rf"""(?<!['"])\b{name}\b(?!\s*=[^=]|['"])"""
    inherits = re.search(r'\b(_base_|read_base)\b', code)
    return len(stated) > 1 and bool(inherits) and not re.search(used, stated[-1])


def _slots(cfg: Config, name: str, value: Any) -> Iterator[Slot]:
    for _, steps in pipelines(cfg):
        if name == 'num_frames':
            yield from ((s, 'clip_len', value) for s in steps if 'clip_len' in s)
        if name == 'image_size':
            yield from _scaled(steps, value)
    if name in ('arch', 'weights'):
        yield from ((tower.node, name, value) for tower in towers(cfg))
    if name in ('arch', 'max_tokens'):
        for part in walk(cfg):
            if part.kind == 'CaptionTokenize':
                yield part.node, name, value


def _scaled(steps: list[dict], size: int) -> Iterator[Slot]:
    """Scale all sizes of a pipeline so that its frames become ``size`` pixels.

    A negative number means "unspecified" and a float is a factor.
    """
    found = output_size(steps)
    if found is None:
        return
    ratio = size / min(found)
    for step in steps:
        for key in PIXELS:
            value = step.get(key)
            if isinstance(value, (list, tuple)):
                new = type(value)(p if p < 0 else round(p * ratio) for p in value)
                yield step, key, new
            elif isinstance(value, int):
                yield step, key, round(value * ratio)


# --- Sizes --------------------------------------------------------------------------

CROPS = {'CenterCrop': 'crop_size', 'RandomCrop': 'size', 'ThreeCrop': 'crop_size',
         'TenCrop': 'crop_size'}  # fmt: skip
KEEP_SIZE = {'CaptionTokenize', 'ColorJitter', 'Flip', 'FormatShape', 'MirrorCaption',
             'PackActionInputs', 'RandomErasing'}  # fmt: skip


def output_size(steps: Sequence[dict]) -> Optional[tuple[int, int]]:
    """Return the height and width of a pipeline's frames, or None if unknown."""
    size: Optional[tuple[int, int]] = None
    for step in steps:
        kind = Part('', step).kind
        if kind in CROPS:
            size = _pair(step.get(CROPS[kind]))
        elif kind == 'Resize' and step.get('keep_ratio', True) is False:
            size = _pair(step.get('scale'))
            size = size and size[::-1]  # scale is (width, height)
        elif kind not in KEEP_SIZE:
            size = None
    return size


def _pair(size: Any) -> Optional[tuple[int, int]]:
    pair = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    fixed = len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)
    return pair if fixed else None  # type: ignore[return-value]
