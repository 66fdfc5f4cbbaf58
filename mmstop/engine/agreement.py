"""Check that a config's towers agree with each other and with its pipelines."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from mmengine.config import Config

from mmstop.datasets import CaptionTokenize
from mmstop.errors import ConfigError
from mmstop.towers import CLIPText, CLIPViT
from mmstop.towers.weights import resolve_arch

from .pipelines import is_random, kind, output_size, small_crop
from .settings import parts, pipelines, towers

__all__ = ['check_agreement', 'check_towers']

SPLITS = ('train', 'val', 'test')


class _Tower(NamedTuple):
    path: str
    target: type
    arch: Any
    weights: Any


def check_agreement(cfg: Config) -> None:
    """Compare the towers of a config with each other and with its pipelines.

    Raises:
        ConfigError: the towers come from different CLIP models, or a pipeline produces
            frames or texts of a size that the towers do not accept.
    """
    check_towers(cfg)
    read = _read_pipelines(cfg)
    for path, steps in read.items():
        if fault := small_crop(steps):
            raise ConfigError(f'{path}: {fault}')
    for tower in _towers(cfg):
        if not isinstance(tower.arch, str):
            continue  # the tower itself reports this
        if issubclass(tower.target, CLIPViT):
            _check_frames(tower, read)
        elif issubclass(tower.target, CLIPText):
            _check_tokens(cfg, tower)
    _warn_of_random_tests(cfg)


def check_towers(cfg: Config) -> None:
    """Reject towers from different CLIP models: their embeddings are not comparable.

    Random weights do not count as a different CLIP: they serve as a control.

    Raises:
        ConfigError: two towers differ in architecture or weights.
    """
    found = _towers(cfg)
    for key, values in (
        ('arch', [(_arch_name(tower.arch), tower) for tower in found]),
        ('weights', [(t.weights, t) for t in found if t.weights is not None]),
    ):
        for value, tower in values[1:]:
            first, other = values[0]
            if value != first:
                choices = [
                    _option(cfg, key, getattr(one, key)) for one in (other, tower)
                ]
                raise ConfigError(
                    f'{other.path}.{key}={getattr(other, key)!r} and '
                    f'{tower.path}.{key}={getattr(tower, key)!r} are two CLIPs, whose '
                    f'embeddings cannot be compared; set both with --cfg-options '
                    f'{" or ".join(choices)}'
                )


def _towers(cfg: Config) -> list[_Tower]:
    return [
        _Tower(path, target, node['arch'], node.get('weights'))
        for path, node, target in towers(cfg)
        if path.startswith('model.')
    ]


def _read_pipelines(cfg: Config) -> dict[str, list]:
    """Return the pipelines of the data loaders, keyed by their place in the config."""
    starts = tuple(f'{split}_dataloader.' for split in SPLITS)
    return {path: steps for path, steps in pipelines(cfg) if path.startswith(starts)}


def _option(cfg: Config, key: str, value: Any) -> str:
    """Format the options that set the architecture or weights of all towers."""
    option = f'{key}={value}'
    if key == 'arch' and isinstance(value, str):
        expected = _image_size(value)
        sizes = set(map(output_size, _read_pipelines(cfg).values())) - {None}
        if sizes and sizes != {expected}:
            option += f' image_size={expected[0]}'
    return option


def _image_size(arch: str) -> tuple[int, int]:
    """Return the height and width of the frames that an architecture expects."""
    model: Any = open_clip.get_model_config(resolve_arch(arch))
    size = model['vision_cfg'].get('image_size', 224)
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)


def _arch_name(arch: Any) -> Any:
    """Name an architecture: the file ViT-tiny.json defines one called ViT-tiny."""
    if isinstance(arch, str) and arch.endswith('.json'):
        return Path(arch).stem
    return arch


def _check_frames(tower: _Tower, read: dict[str, list]) -> None:
    expected = _image_size(tower.arch)
    for path, steps in read.items():
        found = output_size(steps)
        if found is not None and found != expected:
            raise ConfigError(
                f'{path} makes frames of {found[0]} x {found[1]} pixels, '
                f'{tower.path}.arch={tower.arch!r} takes {expected[0]} x '
                f'{expected[1]}; set all pipelines with --cfg-options '
                f'image_size={expected[0]}'
            )


def _check_tokens(cfg: Config, tower: _Tower) -> None:
    room, tokenizer = _text(tower.arch)
    for place, node in parts(cfg):
        split = place.path.partition('_dataloader.')[0]
        if split not in SPLITS or kind(node) != CaptionTokenize.__name__:
            continue
        length = node.get('max_tokens', 32)
        if isinstance(length, int) and length > room:
            raise ConfigError(
                f'{place.path}.max_tokens={length} is more than the {room} tokens that '
                f'{tower.path}.arch={tower.arch!r} takes; set all pipelines with '
                f'--cfg-options max_tokens={room}'
            )
        arch = node.get('arch', 'ViT-B-32-quickgelu')
        if isinstance(arch, str) and _text(arch)[1] != tokenizer:
            raise ConfigError(
                f'{place.path}.arch={arch!r} has another tokenizer than '
                f'{tower.path}.arch={tower.arch!r}; set all with --cfg-options '
                f'arch={tower.arch}'
            )


def _text(arch: str) -> tuple[int, tuple]:
    """Return an architecture's context length and what identifies its tokenizer."""
    model: Any = open_clip.get_model_config(resolve_arch(arch))
    text = model['text_cfg']
    tokenizer = (text.get('hf_tokenizer_name'), text.get('vocab_size', 49408))
    return text.get('context_length', 77), tokenizer


def _warn_of_random_tests(cfg: Config) -> None:
    found: dict[str, list[str]] = {}  # step -> places
    for place, node in parts(cfg):
        split, _, rest = place.path.partition('_dataloader.')
        if split in SPLITS[1:] and '.pipeline.' in rest and is_random(node, place):
            found.setdefault(kind(node), []).append(place.path)
    for step, places in found.items():
        warnings.warn(
            f'{" and ".join(places)}: {step} is random, so the same video is tested '
            f'differently each time; leave it out, or give it test_mode=True if it '
            f'samples frames',
            stacklevel=4,
        )
