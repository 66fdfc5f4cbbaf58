"""Read a folder that shares a trained model, and run nothing that it holds.

The folder is laid out as on the Hugging Face hub. ``model.safetensors`` has what was
trained. ``config.json`` has the model and its test pipeline, with digests of the
weights and of the frozen CLIP, which is not in the folder. ``README.md`` is the model
card.

A folder may come from a stranger, so its config may name classes of a fixed list only,
and no modules, URLs or files.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import huggingface_hub
import open_clip
import safetensors.torch
from huggingface_hub import constants
from mmengine.config import Config
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from mmstop.config_check import check_config
from mmstop.config_settings import change_setting
from mmstop.engine.fitting import find_misfits, refuse_bad_numbers
from mmstop.engine.identity import left_out
from mmstop.errors import AnnotationError, ConfigError, MissingFileError, short
from mmstop.registry import MODELS, TRANSFORMS
from mmstop.text import one_line, read_json
from mmstop.towers.download import offline, unreachable

__all__ = [
    'CARD',
    'CONFIG',
    'FORMAT',
    'WEIGHTS',
    'Published',
    'check_parts',
    'encode',
    'find',
    'read_published',
]

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
FORMAT = 1  # of config.json

# The classes of other packages that a config may name beside those of mmstop.
FOREIGN = {
    'model': {'ActionDataPreprocessor', 'MultiModalDataPreprocessor', 'Recognizer3D'},
    'test_pipeline': {
        *('DecordInit', 'DecordDecode', 'UniformSample', 'SampleFrames', 'Resize'),
        *('CenterCrop', 'ThreeCrop', 'TenCrop', 'FormatShape', 'PackActionInputs'),
    },
}
NAMING = {'_scope_', 'init_cfg', 'io_backend'}  # they name modules, URLs or files


# --- Reading --------------------------------------------------------------------------


class Published(NamedTuple):
    """What a folder holds, checked as far as that is possible without the model."""

    cfg: Config
    checkpoint: dict  # as the checkpoints of training
    name: str

    def fill(self, model: nn.Module) -> None:
        """Load the weights into the model of the config.

        Raises:
            ConfigError: they were trained over another CLIP, or do not fit.
        """
        named = self.checkpoint['meta'].get('frozen')
        named = named if isinstance(named, dict) else {}
        for tower, names in left_out(model).items():
            if names and not isinstance(named.get(tower), dict):
                raise ConfigError(
                    f'{self.name}: {CONFIG} has no digest of the CLIP in {tower}; get '
                    f'it again, or write it with mmstop publish'
                )
        refuse_bad_numbers(model, self.checkpoint, self.name)
        if found := find_misfits(model, self.checkpoint, self.cfg):
            raise ConfigError(
                f'{self.name} does not fit its model: {found}. Give the CLIP that it '
                f'names as weights=, and the version of mmstop that it names'
            )
        model.load_state_dict(self.checkpoint['state_dict'], strict=False)


def read_published(
    name: Union[str, os.PathLike],
    weights: Optional[str] = None,
    revision: Optional[str] = None,
) -> Published:
    """Read and check a published model.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        weights: file of the CLIP below, where its tag cannot be downloaded.
        revision: branch, tag or commit on the hub.

    Raises:
        MissingFileError: the folder lacks a file.
        ConfigError: there is no such model, or the folder is damaged or holds more
            than a model of this package.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name), revision)
    elif revision is not None:
        raise ConfigError(
            f'{name} is a folder, which has no revision {revision!r}; leave it out'
        )
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise MissingFileError(
                f'{folder} has no {file}, so that it is not a whole published model; '
                f'get it again, or write it with mmstop publish'
            )
    path = folder / CONFIG
    try:
        content = read_json(path)
    except AnnotationError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        found = content.get('format') if isinstance(content, dict) else content
        raise ConfigError(
            f'{path} has the format {short(found)}, expected {FORMAT}; it was not '
            f'written by mmstop publish, or by a newer mmstop'
        )
    data = (folder / WEIGHTS).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != content.get('sha256'):
        raise ConfigError(
            f'{folder / WEIGHTS} has the SHA-256 {digest:.12}, {CONFIG} expects '
            f'{content.get("sha256")!s:.12}: one of them was changed or is not whole; '
            f'get both again'
        )
    parts = {part: _decode(content.get(part)) for part in FOREIGN}
    check_parts(parts, str(path))
    dataset = dict(type='VideoDataset', pipeline=parts['test_pipeline'])
    loader = dict(dataset=dataset)
    model = dict(model=parts['model'], default_scope='mmaction')
    cfg = Config(dict(model, test_dataloader=loader), filename=str(path))
    if weights is not None:
        change_setting(cfg, 'weights', weights)
    check_config(cfg, [])
    try:
        state = safetensors.torch.load(data)
    except Exception as error:  # of several classes
        raise ConfigError(f'{folder / WEIGHTS} cannot be read: {error}') from None
    meta = content.get('meta')
    checkpoint = dict(state_dict=state, meta=meta if isinstance(meta, dict) else {})
    return Published(cfg, checkpoint, str(name))


def _download(name: str, revision: Optional[str]) -> Path:
    """Get a model from the hub or its cache."""
    fault = unreachable(constants.ENDPOINT)
    try:
        with offline(fault is not None):
            return Path(
                huggingface_hub.snapshot_download(
                    name, revision=revision, allow_patterns=[WEIGHTS, CONFIG, CARD]
                )
            )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{name!r} is neither a folder nor a model that {constants.ENDPOINT} gives '
            f'({fault or one_line(error)}); give the path of a folder that mmstop '
            f'publish wrote, or OWNER/NAME'
        ) from None


# --- What a config may name -----------------------------------------------------------


def find(node: Any, key: str) -> Iterator[dict]:
    """Find the dicts with a key, outer ones first."""
    if isinstance(node, dict):
        if key in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from find(value, key)


def check_parts(parts: dict[str, Any], name: Any) -> None:
    """Refuse a config that names code, files or URLs.

    Raises:
        ConfigError: it does, or it lacks a part.
    """
    for part, kind, registry in (
        ('model', dict, MODELS),
        ('test_pipeline', list, TRANSFORMS),
    ):
        own = registry.module_dict.items()
        known = {name for name, cls in own if cls.__module__.startswith('mmstop.')}
        if not isinstance(parts[part], kind):
            raise ConfigError(f'{name} has no {part}; get it again')
        for key in NAMING:
            for node in find(parts[part], key):
                raise ConfigError(
                    f'{name}: {key}={short(node[key])} is not for a published config, '
                    f'which names no modules, URLs or files; leave it out'
                )
        for node in find(parts[part], 'type'):
            if not isinstance(node['type'], str) or node['type'] not in (
                known | FOREIGN[part]
            ):
                raise ConfigError(
                    f'{name}: {part} has type={short(node["type"])}, and a published '
                    f'config names classes of mmstop and '
                    f'{", ".join(sorted(FOREIGN[part]))} only, since it holds no code'
                )
        for node in find(parts[part], 'arch'):
            _check_clip(node['arch'], node.get('weights'), name)
    for node in find(parts['model'], 'classes'):
        if not isinstance(node['classes'], list):
            raise ConfigError(
                f'{name}: classes={short(node["classes"])}, expected a list of names'
            )


def _check_clip(arch: Any, weights: Any, name: Any) -> None:
    """Refuse an architecture or weights that only a file or a URL would bring."""
    if arch not in open_clip.list_models():
        raise ConfigError(
            f'{name}: arch={short(arch)} is no name of open_clip or mmstop, and a '
            f'published config names no files'
        )
    if weights not in (None, 'mmstop') and not get_pretrained_cfg(arch, str(weights)):
        raise ConfigError(
            f'{name}: weights={short(weights)} is no tag of {arch}, and a published '
            f'config names no files; name the tag of this CLIP (mmstop publish '
            f'--weights openai)'
        )


# --- Tuples ---------------------------------------------------------------------------


def encode(node: Any) -> Any:
    """Mark tuples, which JSON would turn into lists: MMAction2 tells them apart."""
    if isinstance(node, dict):
        return {key: encode(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        items = [encode(value) for value in node]
        return items if isinstance(node, list) else {'tuple': items}
    return node


def _decode(node: Any) -> Any:
    """Undo :func:`encode`."""
    if isinstance(node, dict):
        if node.keys() == {'tuple'} and isinstance(node['tuple'], list):
            return tuple(_decode(value) for value in node['tuple'])
        return {key: _decode(value) for key, value in node.items()}
    return [_decode(value) for value in node] if isinstance(node, list) else node
