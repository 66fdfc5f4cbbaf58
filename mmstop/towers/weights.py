"""Build a checked open_clip model from the names or files of its parts.

open_clip interpolates positional embeddings and only warns about a wrong activation.
Both silently cost accuracy, so here they are errors that name the remedy.
"""

import zlib
from pathlib import Path
from typing import Any, Optional

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor, nn

from mmstop.architectures import ASSETS, resolve_arch
from mmstop.errors import ConfigError, MissingFileError

from .download import download
from .weight_files import OPENAI_EXTRAS, read_weights

__all__ = ['as_bytes', 'build_clip', 'checksum', 'is_finite', 'resolve_arch']

PACKAGED = 'mmstop'  # weights='mmstop': the weights that ship with the package
RANDOM_SEED = 0  # weights=None: every process and run gets the same random tower


def build_clip(arch: str, weights: Optional[str]) -> nn.Module:
    """Build open_clip's model of ``arch`` and load ``weights`` into it, in float32.

    Args:
        arch: open_clip's name, as returned by :func:`resolve_arch`.
        weights: a tag, a file, 'mmstop' or None; see ``CLIPTower``.

    Raises:
        ValueError: ``arch`` is not a plain ViT with a plain text transformer; the
            weights belong to another architecture, image size or activation; or the
            weights of a tag cannot be downloaded.
        FileNotFoundError: ``weights`` is neither a tag of ``arch`` nor a file.
    """
    config = _plain_config(arch)
    path = _locate(arch, weights)
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return open_clip.CLIP(**config)
    with torch.device('meta'):  # drawing numbers would take longer than reading them
        clip = open_clip.CLIP(**config)
    state = read_weights(path)
    _check_fits(arch, path, clip, state)
    own = {  # not the file's memory, which tensors may share
        key: value.to(torch.float32, copy=True) for key, value in state.items()
    }
    clip.load_state_dict(own, assign=True)
    return clip


def checksum(value: Tensor) -> int:
    """Return a fast checksum of a tensor's bytes, good enough to detect a change."""
    return zlib.crc32(as_bytes(value))


def is_finite(value: Tensor) -> bool:
    """Tell whether all numbers of a tensor are finite."""
    if value.is_floating_point() and value.numel():  # ten times as fast as isfinite
        return all(bound.isfinite() for bound in value.aminmax())
    return bool(value.isfinite().all())


def as_bytes(value: Tensor) -> Any:
    """Return the bytes of a tensor, without a copy if it is on the CPU.

    On the 'meta' device, where models are built only to count parameters, there are
    none.
    """
    if value.is_meta:
        return b''
    return value.detach().cpu().flatten().view(torch.uint8).numpy()


def _locate(arch: str, weights: Optional[str]) -> Optional[Path]:
    """Find the file for ``weights``; download it if ``weights`` is a tag."""
    if weights is None:
        return None
    if weights == PACKAGED:
        return _packaged(arch)
    tag = get_pretrained_cfg(arch, weights)
    if tag:
        _check_activation(arch, bool(tag.get('quick_gelu')), f'weights={weights!r}')
        return download(arch, weights, tag)
    if Path(weights).is_file():
        return Path(weights)
    raise MissingFileError(
        f'weights={weights!r} is neither a file nor a tag of {arch}, whose tags are '
        f'{list_pretrained_tags_by_model(arch)}; give one of them or the path of a '
        f'downloaded file'
    )


def _packaged(arch: str) -> Path:
    path = ASSETS / f'{arch}.safetensors'
    if not path.is_file():
        raise MissingFileError(
            f'weights={PACKAGED!r} with arch={arch!r}: this package has weights for '
            f'{sorted(p.stem for p in ASSETS.glob("*.safetensors"))} only; give a tag '
            f'or a file'
        )
    return path


def _check_activation(arch: str, quick_gelu: bool, what: str) -> None:
    """Refuse weights that were trained with a different GELU from that of ``arch``."""
    if quick_gelu == bool(open_clip.get_model_config(arch).get('quick_gelu')):
        return
    twin = arch + '-quickgelu' if quick_gelu else arch.removesuffix('-quickgelu')
    raise ConfigError(
        f'{what} was trained with {"QuickGELU" if quick_gelu else "GELU"}, '
        f'arch={arch!r} has the other, which would silently cost accuracy; '
        f'set arch={twin!r}'
    )


# The keys allowed in a tower's config. Any other key changes blocks or pooling in ways
# that ``CLIPTower`` does not implement.
PLAIN = {
    'model': {'embed_dim', 'vision_cfg', 'text_cfg', 'quick_gelu'},
    'vision': {
        'image_size',
        'layers',
        'width',
        'head_width',
        'patch_size',
        'mlp_ratio',
        'ls_init_value',
    },
    'text': {'context_length', 'vocab_size', 'width', 'heads', 'layers', 'mlp_ratio'},
}


def _plain_config(arch: str) -> dict:
    """Return open_clip's config of ``arch`` if it is a CLIP with plain transformers."""
    config = open_clip.get_model_config(arch)
    config['vision_cfg'].pop('patch_dropout', None)  # it drops patches at random
    vision, text = config['vision_cfg'], config['text_cfg']
    odd = (
        (config.keys() - PLAIN['model'])
        | (vision.keys() - PLAIN['vision'])
        | (text.keys() - PLAIN['text'])
    )
    if odd or isinstance(vision['layers'], list):
        raise ConfigError(
            f'arch={arch!r} is not a CLIP with plain transformers: its config has '
            f'{sorted(odd) or "a ResNet"}; choose one such as ViT-B-32-quickgelu, '
            f'ViT-B-16-quickgelu or ViT-L-14-quickgelu'
        )
    return config


def _check_fits(arch: str, path: Path, clip: nn.Module, state: dict) -> None:
    """Compare keys and shapes; report the first differences and the likely remedy."""
    if OPENAI_EXTRAS <= state.keys():
        _check_activation(arch, True, f"OpenAI's archive {path}")
    for key in OPENAI_EXTRAS:
        state.pop(key, None)
    own = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    if own == given:
        _check_numbers(path, state)
        return
    differing = [
        f'{key} is {given.get(key, "missing")}, expected {own.get(key, "no such key")}'
        for key in sorted(own.keys() | given.keys())
        if own.get(key) != given.get(key)
    ]
    raise ConfigError(
        f'{path} does not hold the weights of {arch}: {len(differing)} entries differ, '
        f'such as: {"; ".join(differing[:2])}. {_suggest(given)}'
    )


def _check_numbers(path: Path, state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        if not value.is_floating_point():
            raise ConfigError(
                f'{path} holds {key} as {value.dtype}, expected floating-point '
                f'numbers; save the weights in float32 or float16'
            )
        if not is_finite(value.float()):
            raise ConfigError(
                f'{path} holds NaN or infinite numbers in {key}; download the weights '
                f'again, or take those from before training broke'
            )


def _suggest(given: dict[str, tuple]) -> str:
    """Suggest the architectures whose video tower has the same sizes as the file's."""
    conv = given.get('visual.conv1.weight')
    position = given.get('visual.positional_embedding')
    if conv is None or position is None:
        return 'It holds no CLIP with a ViT: give a file from open_clip or OpenAI'
    width, patch = conv[0], conv[-1]
    image = round((position[0] - 1) ** 0.5) * patch
    layers = sum(key.startswith('visual.') and key.endswith('ln_1.weight')
                 for key in given)  # fmt: skip
    names = [
        name
        for name in open_clip.list_models()
        if (vision := open_clip.get_model_config(name)['vision_cfg']).get('width', 768)
        == width
        and vision.get('patch_size') == patch
        and vision.get('layers', 12) == layers
        and vision.get('image_size', 224) == image
    ]
    return (
        f'It holds a ViT of width {width}, {layers} layers, patches of {patch} and '
        f'images of {image} pixels: set arch={" or ".join(names) or "of that size"}'
    )
