"""Identify the model behind a checkpoint: its arguments and the underlying CLIP.

Checkpoints leave out the frozen parameters of the towers, and no tensor reveals an
argument such as STOP's ``alpha``. So each checkpoint carries, as plain data, a digest
of what it leaves out and all arguments of its model, including default values.
"""

import hashlib
import inspect
import json
from collections.abc import Iterator
from reprlib import repr
from typing import Any, Union

import open_clip
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmstop.towers import CLIPTower
from mmstop.towers.weights import as_bytes, checksum, resolve_arch

__all__ = [
    'compare_arguments',
    'compare_frozen',
    'describe_arguments',
    'digest_frozen',
    'full_names',
    'left_out',
]

# Arguments of any model that do not affect its outputs, or are compared elsewhere.
NEUTRAL = {
    *('weights', 'pretrained', 'init_cfg'),  # the tensors themselves are compared
    *('trainable', 'loss_cls', 'label_smooth_eps', 'blending', 'train_cfg'),  # training
    *('checkpoint', 'compile', 'with_cp'),  # how it is computed, not what
    *('classes', 'num_classes'),  # compared by name and shape
    *('average_clips', 'topk', 'test_cfg'),  # how the scores are used
    '_scope_',
}


# --- The frozen tensors ---------------------------------------------------------------


def left_out(model: nn.Module) -> dict[str, list[str]]:
    """List, by tower, the frozen parameters unchanged since ``weights=`` set them."""
    return {
        prefix: [
            name
            for name, parameter in _frozen(tower)
            if checksum(parameter) == tower.brought[name]
        ]
        for prefix, tower in _towers(model).items()
    }


def full_names(names: dict[str, list[str]]) -> list[str]:
    """Return the names in the model of parameters that are listed by tower."""
    return [
        f'{prefix}.{name}' if prefix else name
        for prefix, inside in names.items()
        for name in inside
    ]


def digest_frozen(model: nn.Module, names: dict[str, list[str]]) -> dict[str, dict]:
    """Hash the named parameters, by tower; 600 MB take about a second."""
    return {
        prefix: dict(weights=tower.source, sha256=_digest(tower, names[prefix]))
        for prefix, tower in _towers(model).items()
        if names.get(prefix)
    }


def compare_frozen(model: nn.Module, stored: dict, given: set[str]) -> list[str]:
    """Tell which towers have parameters that differ from those a checkpoint left out.

    Args:
        stored: the result of :func:`digest_frozen`.
        given: names of all parameters that the checkpoint holds.
    """
    missing = {
        prefix: [name for name, _ in _frozen(tower) if f'{prefix}.{name}' not in given]
        for prefix, tower in _towers(model).items()
        if isinstance(stored.get(prefix), dict)
    }
    return [
        f'{prefix} of weights={stored[prefix].get("weights")!r:.200} (sha256 '
        f'{stored[prefix].get("sha256")!s:.12}) instead of weights={own["weights"]!r} '
        f'({own["sha256"]:.12})'
        for prefix, own in digest_frozen(model, missing).items()
        if own['sha256'] != stored[prefix].get('sha256')
    ]


def _towers(model: nn.Module) -> dict[str, CLIPTower]:
    modules = model.named_modules()
    return {prefix: m for prefix, m in modules if isinstance(m, CLIPTower)}


def _frozen(tower: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in tower.named_parameters() if not p.requires_grad]


def _digest(tower: nn.Module, names: list[str]) -> str:
    parameters = dict(tower.named_parameters())
    digest = hashlib.sha256()
    for name in sorted(names):
        value = parameters[name]
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(as_bytes(value))
    return digest.hexdigest()


# --- The arguments --------------------------------------------------------------------


def describe_arguments(cfg: Any) -> dict[str, Any]:
    """Return all arguments in ``cfg.model`` that may affect outputs: path -> value."""
    return {path: value for path, value, _ in _arguments(cfg)}


def compare_arguments(cfg: Any, stored: dict[str, Any]) -> list[str]:
    """Tell which arguments in ``cfg.model`` differ from those of a checkpoint.

    Only parts at the same place and of the same class are compared, so a recognizer's
    backbone can be reused in a retriever. An argument that is missing in the checkpoint
    counts as its default.
    """
    arguments = _arguments(cfg)
    own = {path: value for path, value, _ in arguments}
    defaults = {path for path, _, is_default in arguments if is_default}
    paths = own.keys() | stored.keys()
    differing = []
    for path in sorted(paths - {'type'}):
        cls = _class_path(path, paths)
        if cls not in own or own[cls] != stored.get(cls):
            continue  # the class itself is compared as an argument of what holds it
        if path not in stored and path in defaults:
            continue
        before, now = (
            repr(values[path]) if path in values else 'not there'
            for values in (stored, own)
        )
        if path not in stored or path not in own or stored[path] != own[path]:
            differing.append(f'{path}={before} instead of {now}')
    return differing


def _class_path(path: str, paths: set[str]) -> str:
    """Return the path of the class whose argument this is; a class belongs outside."""
    path = path.removesuffix('.type')
    while '.' in path:
        path = path.rpartition('.')[0]
        if f'{path}.type' in paths:
            return f'{path}.type'
    return 'type'


def _arguments(cfg: Any) -> list[tuple[str, Any, bool]]:
    """List path, value as plain data, and whether the class has it as its default."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmaction'):
        return [*_flatten(cfg.get('model') or {}, '')]


def _flatten(node: Union[dict, list], path: str) -> Iterator[tuple[str, Any, bool]]:
    items = dict(node if isinstance(node, dict) else enumerate(node))
    cls = items.get('type')
    if isinstance(cls, str):
        with MODELS.switch_scope_and_registry(items.get('_scope_')) as registry:
            cls = registry.get(cls) or cls
    defaults = _defaults(cls)
    for key, value in {**defaults, **items}.items():
        place = f'{path}.{key}' if path else str(key)
        if key in NEUTRAL:
            continue
        if key == 'arch' and isinstance(cls, type) and issubclass(cls, CLIPTower):
            value = open_clip.get_model_config(resolve_arch(value))
        if key == 'type':
            yield place, getattr(cls, '__name__', str(cls)), False
        elif _holds_parts(value):
            yield from _flatten(value, place)
        else:
            is_default = key in defaults and _plain(defaults[key]) == _plain(value)
            yield place, _plain(value), is_default


def _holds_parts(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value)


def _defaults(cls: Any) -> dict[str, Any]:
    """Return the defaults of a constructor and of those it passes ``**kwargs`` to."""
    defaults: dict[str, Any] = {}
    for owner in cls.__mro__ if isinstance(cls, type) else []:
        if '__init__' not in vars(owner) or owner in (nn.Module, object):
            continue
        parameters = inspect.signature(owner).parameters.values()
        for p in parameters:
            if p.default is not p.empty:
                defaults.setdefault(p.name, p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return defaults


def _plain(value: Any) -> Any:
    """Convert a value to a form that a checkpoint may hold."""

    def name(other: Any) -> str:
        return getattr(other, '__qualname__', type(other).__qualname__)

    return json.loads(json.dumps(value, default=name))
