"""Work out from a pipeline's config what it does to a video."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Optional

from mmstop.errors import ConfigError

from .schema import Place, arguments_at

__all__ = ['is_random', 'kind', 'output_size', 'small_crop']

CROPS = {'CenterCrop': 'crop_size', 'RandomCrop': 'size', 'ThreeCrop': 'crop_size',
         'TenCrop': 'crop_size'}  # fmt: skip
KEEP_SIZE = {'CaptionTokenize', 'ColorJitter', 'Flip', 'FormatShape', 'MirrorCaption',
             'PackActionInputs', 'RandomErasing'}  # fmt: skip
RANDOM = {'ColorJitter', 'ImgAug', 'MultiScaleCrop', 'PytorchVideoWrapper',
          'RandAugment'}  # fmt: skip


def kind(step: dict) -> str:
    """Return the name of a step's class, without the scope."""
    name = step.get('type', '')
    return getattr(name, '__name__', str(name)).rpartition('.')[2]


def output_size(steps: Sequence[dict]) -> Optional[tuple[int, int]]:
    """Return the height and width of a pipeline's frames, or None if unknown."""
    size: Any = None
    for step in steps:
        name = kind(step)
        if name in CROPS:
            size = _pair(step.get(CROPS[name]))
        elif name == 'Resize' and step.get('keep_ratio', True) is False:
            size = _pair(step.get('scale'))
            size = size and size[::-1]  # scale is (width, height)
        elif name not in KEEP_SIZE:
            size = None
    return size


def small_crop(steps: Sequence[dict]) -> Optional[str]:
    """Say which crop is larger than the frames that an earlier step produces."""
    short = None
    for step in steps:
        name = kind(step)
        if name in CROPS and short is not None:
            crop = _pair(step.get(CROPS[name]))
            if crop is not None and max(crop) > short:
                return (
                    f'{name} cuts {crop[0]} x {crop[1]} pixels of frames whose short '
                    f'side is {short}; let Resize, and short_side of '
                    f'CheckedDecordInit if it is given, make it at least {max(crop)}'
                )
        scale: Any = step.get('scale')
        shaped = isinstance(scale, (list, tuple)) and len(scale) == 2
        if name == 'Resize' and shaped and min(scale) == -1:
            short = max(scale)
        elif name not in KEEP_SIZE:
            short = None
    return None


def _pair(size: Any) -> Optional[tuple[int, int]]:
    pair = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    fixed = len(pair) == 2 and all(isinstance(n, int) and n > 0 for n in pair)
    return pair if fixed else None  # type: ignore[return-value]


def is_random(step: dict, place: Place) -> bool:
    """Tell whether a step does something different each time.

    Args:
        place: where it is in the config.
    """
    name = kind(step)
    if name == 'Flip':
        return 0 < step.get('flip_ratio', 0.5) < 1
    if 'Sample' in name and not step.get('test_mode'):
        with suppress(ConfigError):  # an unknown type is reported by check_config
            return 'test_mode' in (arguments_at(step, place) or set())
    return name.startswith('Random') or name in RANDOM
