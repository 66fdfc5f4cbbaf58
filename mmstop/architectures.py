"""Names of CLIP architectures: open_clip's, this package's and those of JSON files."""

import difflib
from pathlib import Path
from typing import Any

import open_clip

from .errors import ConfigError, MissingFileError

__all__ = ['ASSETS', 'image_size', 'resolve_arch']

ASSETS = Path(__file__).with_name('assets')

open_clip.add_model_config(ASSETS)


def resolve_arch(arch: str) -> str:
    """Return open_clip's name of an architecture, read from a JSON file if it is one.

    Raises:
        ValueError: there is no such architecture.
        FileNotFoundError: ``arch`` ends in '.json' and there is no such file.
    """
    if arch.endswith('.json'):
        if not Path(arch).is_file():
            raise MissingFileError(f'arch={arch!r}: there is no such file')
        open_clip.add_model_config(arch)
        arch = Path(arch).stem
    if open_clip.get_model_config(arch) is None:
        near = difflib.get_close_matches(arch, open_clip.list_models(), n=3)
        raise ConfigError(
            f'arch={arch!r} is not an architecture of open_clip; did you mean '
            f'{" or ".join(near) or "one of open_clip.list_models()"}?'
        )
    return arch


def image_size(arch: str) -> tuple[int, int]:
    """Return the height and width of the frames that an architecture expects.

    Raises:
        ConfigError: there is no such architecture.
    """
    model: Any = open_clip.get_model_config(resolve_arch(arch))
    size = model['vision_cfg'].get('image_size', 224)
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)
