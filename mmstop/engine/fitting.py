"""Check whether a checkpoint fits a model, and whether a run can resume from it."""

import re
from collections.abc import Iterator
from numbers import Real
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from mmstop.engine.identity import compare_arguments, compare_frozen
from mmstop.errors import ConfigError
from mmstop.models import CLIPTextHead
from mmstop.towers.weights import is_finite

__all__ = [
    'check_fit',
    'find_misfits',
    'list_classes',
    'name_optimizers',
    'refuse_bad_numbers',
    'refuse_other_run',
]

MERGING = re.compile(r'\.merge(_frames)?=')  # arguments in a line of compare_arguments


def check_fit(
    model: nn.Module,
    checkpoint: dict,
    cfg: Any,
    name: str,
    other_classes: bool = False,
    other_merging: bool = False,
) -> str:
    """Refuse a checkpoint of another model.

    Args:
        cfg: the config that the model was built from.
        name: what to call the checkpoint.
        other_classes, other_merging: as in :func:`find_misfits`.

    Returns:
        A warning if the checkpoint does not say all about its model; '' if it does.

    Raises:
        ConfigError: it does not fit.
    """
    if found := find_misfits(model, checkpoint, cfg, other_classes, other_merging):
        config = getattr(cfg, 'filename', None) or 'this config'
        looser = 'to load what fits, default_hooks.checkpoint.strict=False'
        if not find_misfits(model, checkpoint, cfg, other_classes, True):
            looser = 'to merge otherwise, default_hooks.checkpoint.other_merging=True'
        raise ConfigError(
            f'{name} does not fit the model of {config}: {found}. Use the config that '
            f'it was trained with, or, {looser}'
        )
    if 'frozen' in (checkpoint.get('meta') or {}):
        return ''
    return (
        f'{name} does not say over which CLIP and with which arguments its model was '
        f'trained, so that other ones go unseen; what is saved from it will say so'
    )


def find_misfits(
    model: nn.Module,
    checkpoint: dict,
    cfg: Any,
    other_classes: bool = False,
    other_merging: bool = False,
) -> str:
    """Describe how a checkpoint and a model differ; '' if they do not.

    Frozen parameters may be missing, since the towers load them.

    Args:
        other_classes: ignore the classes and the template, as for a zero-shot test.
        other_merging: ignore how many patches merge, as for a cheaper test.
    """
    given = {name: tuple(v.shape) for name, v in _tensors(checkpoint).items()}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    classes, before = list_classes(model), _note(checkpoint, 'classes')
    faults = {
        'lacks trained parameters': [name for name in trained if name not in given],
        'has parameters that the model does not': sorted(given.keys() - own.keys()),
        'has other shapes': [
            f'{name} {given[name]} instead of {own[name]}'
            for name in own
            if name in given and given[name] != own[name]
        ],
        'was trained on other classes': [
            f'{len(before[head])} in {head} ({before[head]}) instead of '
            f'{len(classes[head])} ({classes[head]})'
            for head in classes
            if isinstance(before.get(head), list) and before[head] != classes[head]
            if not other_classes
        ],
        'was trained over another CLIP': compare_frozen(
            model, _note(checkpoint, 'frozen'), {*given}
        ),
        'was trained with other arguments': [
            fault
            for fault in compare_arguments(cfg, _note(checkpoint, 'model'))
            if not (other_classes and fault.startswith('cls_head.template'))
            if not (other_merging and MERGING.search(fault))
        ],
    }
    return '; '.join(f'it {fault}: {n}' for fault, n in faults.items() if n)


def list_classes(model: nn.Module) -> dict[str, list[str]]:
    """List the classes of text heads, which no parameter reveals."""
    modules = model.named_modules()
    return {name: m.classes for name, m in modules if isinstance(m, CLIPTextHead)}


def _tensors(checkpoint: dict, entry: str = 'state_dict') -> dict[str, torch.Tensor]:
    state = checkpoint.get(entry, checkpoint if entry == 'state_dict' else {})
    return {
        name.removeprefix('module.'): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _note(checkpoint: dict, name: str) -> dict[str, Any]:
    """Return a note of mmstop in a checkpoint; empty if it is not in our format."""
    note = (checkpoint.get('meta') or {}).get(name)
    return note if isinstance(note, dict) else {}


# --- Numbers --------------------------------------------------------------------------


def refuse_bad_numbers(model: nn.Module, checkpoint: Any, name: str) -> None:
    """Reject weights that training cannot have produced.

    Args:
        checkpoint: what was read from a file.
        name: what to call it.

    Raises:
        ConfigError: a weight that the model would load is NaN or infinite, or of a
            different kind from the model's (integers instead of floats, for example);
            or the checkpoint is not a dict.
    """
    if not isinstance(checkpoint, dict):
        raise ConfigError(
            f'{name} holds a {type(checkpoint).__name__}, expected a dict of named '
            f"tensors; save it as torch.save({{'state_dict': ...}}, path)"
        )
    own = model.state_dict()
    for entry in ('state_dict', 'ema_state_dict'):
        for key, value in _tensors(checkpoint, entry).items():
            if key not in own or own[key].shape != value.shape:
                continue  # it is not loaded, or rejected elsewhere
            if _kind(value) != _kind(own[key]):
                raise ConfigError(
                    f'{name} holds {key} as {_kind(value)} ({value.dtype}), expected '
                    f'{_kind(own[key])} ({own[key].dtype}); save it as such'
                )
            if not is_finite(value.to(own[key].dtype)):
                raise ConfigError(
                    f'{name} holds NaN or infinite numbers in {key}; take a checkpoint '
                    f'from before they came up'
                )


def _kind(value: torch.Tensor) -> str:
    if value.layout != torch.strided or value.is_quantized:
        return 'a sparse or quantised tensor'
    if value.dtype == torch.bool:
        return 'truth values'
    if value.is_complex():
        return 'complex numbers'
    return 'real numbers' if value.is_floating_point() else 'integers'


# --- Runs -----------------------------------------------------------------------------


def refuse_other_run(runner: Runner, checkpoint: dict, name: str) -> None:
    """Reject a checkpoint from which a run of this config cannot resume.

    Args:
        name: what to call the checkpoint.

    Raises:
        ConfigError: it does not record how far training had progressed, or it was
            saved with a different kind of optimizer.
    """
    faults = [
        *_find_state_faults(checkpoint),
        *_find_optimizer_faults(runner, checkpoint),
    ]
    if faults:
        raise ConfigError(
            f'{name} cannot be resumed: {"; ".join(faults)}. Use the config and the '
            f'file of one run, or start a new run from its weights with load_from and '
            f'resume=False'
        )


def _find_state_faults(checkpoint: dict) -> Iterator[str]:
    meta, hub = (checkpoint.get(name) or {} for name in ('meta', 'message_hub'))
    for key in ('epoch', 'iter', 'seed'):
        value = meta.get(key)
        if not (type(value) is int and value >= 0 or (key, value) == ('seed', None)):
            yield f'its meta has {key}={value!r:.40}, expected a number'
    for key in ('log_scalars', 'runtime_info', 'resumed_keys'):
        if not isinstance(hub.get(key), dict):
            yield f'its message_hub has no {key}'
            return
    for key, value in hub['runtime_info'].items():
        if str(key).startswith('best_score') and not isinstance(value, Real):
            yield f'its {key} is {value!r:.40}, expected a number'


def name_optimizers(runner: Any) -> dict[str, str]:
    """Name each optimizer's class, by its wrapper's key; '' if there is only one."""
    return {key: type(o).__name__ for key, o in _optimizers(runner).items()}


def _optimizers(runner: Any) -> dict[str, Optimizer]:
    wrapper = getattr(runner, 'optim_wrapper', None)
    if isinstance(wrapper, OptimWrapperDict):
        return {key: inner.optimizer for key, inner in wrapper.items()}
    return {'': wrapper.optimizer} if isinstance(wrapper, OptimWrapper) else {}


def _find_optimizer_faults(runner: Runner, checkpoint: dict) -> Iterator[str]:
    if 'optimizer' not in checkpoint:
        return
    saved, own = checkpoint['optimizer'], _optimizers(runner)
    saved = saved if isinstance(saved, dict) else {}
    noted = _note(checkpoint, 'optimizers')
    if own and '' not in own and saved.keys() != own.keys():
        yield f'it holds the optimizers {[*saved]}, this config has {[*own]}'
        return
    for key, optimizer in own.items():
        state = saved if key == '' else saved[key]
        groups = state.get('param_groups') if isinstance(state, dict) else None
        if not groups or not all(isinstance(g, dict) for g in groups):
            yield 'its optimizer has no parameter groups'
            continue
        kind = type(optimizer).__name__
        # Newer versions of torch only add options. A different kind of optimizer both
        # lacks some and has others.
        options = {k for k in groups[0] if k != 'params' and 'initial' not in k}
        known = optimizer.defaults.keys()
        lacking, unknown = known - options, options - known
        if noted.get(key, kind) != kind or (lacking and unknown):
            was = noted.get(key, f'one with {", ".join(sorted(unknown))}')
            yield f'its optimizer was {was}, this config has {kind}'
        sizes = [len(group.get('params', ())) for group in groups]
        if sizes != [len(group['params']) for group in optimizer.param_groups]:
            yield f'its optimizer has groups of {sizes} parameters, this config others'
