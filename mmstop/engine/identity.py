"""Identify the model behind a checkpoint: its arguments and the underlying CLIP.

Checkpoints leave out the frozen parameters of the towers, and no tensor reveals an
argument such as STOP's ``alpha``. So each checkpoint carries, as plain data, a digest
of what it leaves out and all arguments of its model, including default values.
"""

import hashlib
import inspect
from collections.abc import Iterator
from reprlib import repr
from typing import Any, NamedTuple

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
            for name, parameter in tower.named_parameters()
            if not parameter.requires_grad
            and checksum(parameter) == tower.brought[name]
        ]
        for prefix, tower in _towers(model).items()
    }


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
    towers = _towers(model)
    missing = {
        prefix: [
            name
            for name, parameter in tower.named_parameters()
            if not parameter.requires_grad and f'{prefix}.{name}' not in given
        ]
        for prefix, tower in towers.items()
        if prefix in stored
    }
    return [
        f'{prefix} of weights={stored[prefix]["weights"]!r:.200} (sha256 '
        f'{stored[prefix]["sha256"]!s:.12}) instead of weights={own["weights"]!r} '
        f'({own["sha256"]:.12})'
        for prefix, own in digest_frozen(model, missing).items()
        if own['sha256'] != stored[prefix]['sha256']
    ]


def _towers(model: nn.Module) -> dict[str, CLIPTower]:
    modules = model.named_modules()
    return {prefix: m for prefix, m in modules if isinstance(m, CLIPTower)}


def _digest(tower: nn.Module, names: list[str]) -> str:
    parameters = dict(tower.named_parameters())
    digest = hashlib.sha256()
    for name in sorted(names):
        value = parameters[name]
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(as_bytes(value))
    return digest.hexdigest()


# --- The arguments --------------------------------------------------------------------


class Argument(NamedTuple):
    """A value in the config of a model."""

    value: Any  # plain data
    is_default: bool  # equal to the default of its class


def describe_arguments(cfg: Any) -> dict[str, Any]:
    """Return all arguments in ``cfg.model`` that may affect outputs: path -> value."""
    return {path: argument.value for path, argument in _arguments(cfg).items()}


def compare_arguments(cfg: Any, stored: dict[str, Any]) -> list[str]:
    """Tell which arguments in ``cfg.model`` differ from those of a checkpoint.

    Only parts at the same place and of the same class are compared, so a recognizer's
    backbone can be reused in a retriever. An argument that is missing in the checkpoint
    counts as its default.
    """
    own = _arguments(cfg)
    here = {path: argument.value for path, argument in own.items()}
    kinds, before = _kinds(here), _kinds(stored)
    if not kinds:  # the model was not built from a config
        return []
    same = {part for part in kinds if kinds[part] == before.get(part)}
    differing = []
    for path in sorted(here.keys() | stored.keys()):
        if _owner(path, {*kinds, *before}) in same:
            if path not in stored:
                differs = not own[path].is_default
            else:
                differs = path not in here or here[path] != stored[path]
        else:  # a different class: one fault for a part, none for the whole
            part = path.removesuffix('type').removesuffix('.')
            is_type = part in kinds and part in before and path.endswith('type')
            differs = is_type and '' in same
        if differs:
            values = [
                repr(values[path]) if path in values else 'not there'
                for values in (stored, here)
            ]
            differing.append(f'{path}={values[0]} instead of {values[1]}')
    return differing


def _kinds(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the classes of the parts, by path; '' is the model."""
    return {
        path.removesuffix('type').removesuffix('.'): value
        for path, value in arguments.items()
        if path == 'type' or path.endswith('.type')
    }


def _owner(path: str, parts: set[str]) -> str:
    """Return the innermost part that an argument belongs to."""
    while '.' in path:
        path = path.rpartition('.')[0]
        if path in parts:
            return path
    return ''


def _arguments(cfg: Any) -> dict[str, Argument]:
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmaction'):
        return dict(_flatten(cfg.get('model') or {}, ''))


def _flatten(node: Any, path: str) -> Iterator[tuple[str, Argument]]:
    cls = _find_class(node) if isinstance(node, dict) and 'type' in node else None
    defaults = _defaults(cls) if cls is not None else {}
    inside: dict[Any, Any] = {**defaults}
    inside.update(node if isinstance(node, dict) else enumerate(node))
    for key, value in inside.items():
        place = f'{path}.{key}' if path else str(key)
        if key in NEUTRAL:
            continue
        if key == 'type':
            yield place, Argument(getattr(cls, '__name__', str(value)), False)
            continue
        if key == 'arch' and isinstance(cls, type) and issubclass(cls, CLIPTower):
            value = open_clip.get_model_config(resolve_arch(value))
        if _holds_parts(value):
            yield from _flatten(value, place)
        else:
            is_default = key in defaults and _plain(defaults[key]) == _plain(value)
            yield place, Argument(_plain(value), is_default)


def _holds_parts(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value)


def _find_class(node: dict) -> Any:
    if not isinstance(node['type'], str):
        return node['type']
    with MODELS.switch_scope_and_registry(node.get('_scope_')) as registry:
        return registry.get(node['type'])


def _defaults(cls: Any) -> dict[str, Any]:
    """Return the defaults of a constructor and of those it passes ``**kwargs`` to."""
    defaults: dict[str, Any] = {}
    for owner in inspect.getmro(cls) if inspect.isclass(cls) else [cls]:
        init = vars(owner).get('__init__') if inspect.isclass(owner) else owner
        if owner is nn.Module or init is None:
            continue
        parameters = inspect.signature(init).parameters.values()
        for p in parameters:
            if p.default is not p.empty:
                defaults.setdefault(p.name, p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return defaults


def _plain(value: Any) -> Any:
    """Convert a value to a form that a checkpoint may hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return getattr(value, '__qualname__', type(value).__qualname__)
