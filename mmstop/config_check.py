"""Check a config that a user wrote, before anything is built.

MMEngine finds a mistyped argument only when it builds the part, and a missing
annotation file only after it has built the model. It never finds towers that do not
belong together. These checks read the signatures of the classes that a config names;
``config_lists.py`` checks the lists of videos.
"""

import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import open_clip
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmstop.architectures import image_size, resolve_arch
from mmstop.compat import read_structure
from mmstop.config_lists import check_lists, is_local
from mmstop.config_parts import (
    DICTS,
    RESERVED,
    RUNNER_KEYS,
    SPLITS,
    Part,
    pipelines,
    suggest,
    towers,
    walk,
)
from mmstop.config_settings import output_size
from mmstop.errors import CheckpointError, ConfigError
from mmstop.towers import CLIPText

__all__ = ['check_config', 'check_towers']

SCALARS = (str, int, float)  # not a dict; not None either, which removes a part

# Places where a dict without a type is always a mistake.
TYPED = re.compile(
    r'^(default_hooks|custom_hooks)\.[^.]+$|\.pipeline\.\d+$|\.(dataset|optimizer)$'
    r'|^model(\.(backbone|cls_head|clip|text))*$'
)
RANDOM = {'ColorJitter', 'ImgAug', 'MultiScaleCrop', 'PytorchVideoWrapper',
          'RandAugment'}  # fmt: skip


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Check the types, arguments and files of a config without building anything.

    Args:
        cfg: the config as it will run.
        splits: the splits whose files to look for, from 'train', 'val' and 'test'.

    Raises:
        ConfigError: the first fault found.
    """
    for key in set(cfg) - RUNNER_KEYS:
        if near := difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.9):
            raise ConfigError(
                f'{key}: nothing reads this key; did you mean {near[0]!r}?'
            )
    for part in walk(cfg):
        if not part.path or part.path.split('.')[0] in RUNNER_KEYS:
            _check_keys(part)
    check_towers(cfg)
    _check_agreement(cfg)
    _check_checkpoint(cfg)
    check_lists(cfg, splits)


# --- Keys ---------------------------------------------------------------------------


def _check_keys(part: Part) -> None:
    """Check the keys of a dict, and that its values are dicts where they must be."""
    if 'type' not in part.node and TYPED.search(part.path):
        keys = ', '.join(map(str, part.node))
        raise ConfigError(f"{part.path} has no 'type'; its keys are {keys}")
    names = part.arguments()
    for key, value in part.node.items():
        path = f'{part.path}.{key}'.lstrip('.')
        if names is not None and key not in names | RESERVED:
            owner = part.kind or part.path
            raise ConfigError(f'{path}: {owner} takes no {key!r}{suggest(key, names)}')
        if isinstance(value, SCALARS) and (path in DICTS or TYPED.search(path)):
            raise ConfigError(
                f'{path} is {value!r}, expected a dict, or a list of dicts'
            )


# --- Towers and pipelines -----------------------------------------------------------


def check_towers(cfg: Config) -> None:
    """Reject towers from different CLIP models: their embeddings are not comparable.

    Random weights do not count as a different CLIP: they serve as a control.

    Raises:
        ConfigError: two towers differ in architecture or weights.
    """
    found = list(_towers(cfg))
    for key in ('arch', 'weights'):
        given = [tower for tower in found if tower.node.get(key) is not None]
        for tower in given[1:]:
            one, other = given[0].node[key], tower.node[key]
            if _clip(one) != _clip(other):
                raise ConfigError(
                    f'{given[0].path}.{key}={one!r} and {tower.path}.{key}={other!r} '
                    f'are two CLIPs, whose embeddings cannot be compared; set both '
                    f'with --cfg-options {_option(cfg, key, one)} or '
                    f'{_option(cfg, key, other)}'
                )


def _towers(cfg: Config) -> Iterator[Part]:
    return (tower for tower in towers(cfg) if tower.path.startswith('model.'))


def _clip(name: Any) -> Any:
    """Name an architecture: the file ViT-tiny.json defines one called ViT-tiny."""
    is_arch = isinstance(name, str) and name.endswith('.json')
    return Path(name).stem if is_arch else name


def _option(cfg: Config, key: str, value: Any) -> str:
    """Format the options that set the architecture or weights of all towers."""
    sizes = {output_size(steps) for _, steps in _read_pipelines(cfg)} - {None}
    if key == 'arch' and isinstance(value, str) and sizes:
        size = image_size(value)
        return f'arch={value}{f" image_size={size[0]}" if sizes != {size} else ""}'
    return f'{key}={value}'


def _read_pipelines(cfg: Config) -> list[tuple[str, list[dict]]]:
    """Return the pipelines of the data loaders and where they are."""
    starts = tuple(f'{split}_dataloader.' for split in SPLITS)
    return [(path, steps) for path, steps in pipelines(cfg) if path.startswith(starts)]


def _check_agreement(cfg: Config) -> None:
    """Compare the steps of each pipeline with each other and with the towers."""
    # A tower itself reports an architecture that is no string.
    found = [tower for tower in _towers(cfg) if isinstance(tower.node['arch'], str)]
    for path, steps in _read_pipelines(cfg):
        _check_sizes(path, steps)
        for tower in found:
            check = _check_tokens if tower.is_a(CLIPText) else _check_frames
            check(tower, path, steps)
    _warn_of_random_tests(cfg)


def _check_frames(tower: Part, path: str, steps: list[dict]) -> None:
    for i, step in enumerate(steps):
        if step.get('input_format') == 'NCHW':
            raise ConfigError(
                f"{path}.{i}.input_format is 'NCHW', which makes every frame an image "
                f"of its own; set it to 'NCTHW', and data_preprocessor.format_shape "
                f'as well'
            )
    size, found = image_size(tower.node['arch']), output_size(steps)
    if found is not None and found != size:
        raise ConfigError(
            f'{path} makes frames of {found[0]} x {found[1]} pixels, '
            f'{tower.path}.arch={tower.node["arch"]!r} takes {size[0]} x {size[1]}; '
            f'set all pipelines with --cfg-options image_size={size[0]}'
        )


def _check_tokens(tower: Part, path: str, steps: list[dict]) -> None:
    for i, step in enumerate(steps):
        arch = step.get('arch', 'ViT-B-32-quickgelu')
        if Part('', step).kind == 'CaptionTokenize' and isinstance(arch, str):
            if _tokenizer(arch) != _tokenizer(tower.node['arch']):
                raise ConfigError(
                    f'{path}.{i}.arch={arch!r} has another tokenizer than '
                    f'{tower.path}.arch={tower.node["arch"]!r}; set all with '
                    f'--cfg-options arch={tower.node["arch"]}'
                )


def _tokenizer(arch: str) -> tuple[Any, Any]:
    """Return what identifies an architecture's tokenizer."""
    model: Any = open_clip.get_model_config(resolve_arch(arch))
    text = model['text_cfg']
    return text.get('hf_tokenizer_name'), text.get('vocab_size', 49408)


def _check_sizes(path: str, steps: list[dict]) -> None:
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


def _warn_of_random_tests(cfg: Config) -> None:
    found: dict[str, list[str]] = {}  # step -> places
    for part in walk(cfg):
        if re.match(r'(val|test)_dataloader\..*pipeline\.', part.path):
            if _is_random(part):
                found.setdefault(part.kind, []).append(part.path)
    for step, places in found.items():
        warnings.warn(
            f'{" and ".join(places)}: {step} is random, so the same video is tested '
            f'differently each time; leave it out, or give it test_mode=True if it '
            f'samples frames',
            stacklevel=4,
        )


def _is_random(step: Part) -> bool:
    if step.kind == 'Flip':
        return 0 < step.node.get('flip_ratio', 0.5) < 1
    if 'Sample' in step.kind:
        samples = 'test_mode' in (step.arguments() or set())
        return samples and not step.node.get('test_mode')
    return step.kind.startswith('Random') or step.kind in RANDOM


# --- Checkpoint ---------------------------------------------------------------------


def _check_checkpoint(cfg: Config) -> None:
    """Read the contents of a checkpoint except for the numbers, which is fast."""
    path, resume = cfg.get('load_from'), bool(cfg.get('resume'))
    if resume and path is None and cfg.get('work_dir'):
        path = find_latest_checkpoint(cfg.work_dir)
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
