"""What a config may contain and where: its parts, their classes and arguments."""

import difflib
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Optional

from mmengine import registry as root
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from torch.utils.data import DataLoader

from mmstop.errors import ConfigError

from .arguments import accepted_arguments

__all__ = [
    'FREE',
    'MARKS',
    'PLAIN',
    'REGISTRIES',
    'RUNNER_KEYS',
    'TYPED',
    'Place',
    'arguments_at',
    'enter',
    'suggest',
    'target_at',
    'top',
]


# Top-level keys that are in use: arguments of the runner, and keys that it looks up.
RUNNER_KEYS = (accepted_arguments(Runner) or set()) - {'cfg'} | {
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
}

# The registry in which a type is looked up first, by the key of the dict that has it.
# Other keys inherit the registry of the enclosing dict.
REGISTRIES: dict[str, Registry] = {
    'batch_sampler': root.DATA_SAMPLERS,
    'collate_fn': root.FUNCTIONS,
    'custom_hooks': root.HOOKS,
    'data_preprocessor': root.MODELS,
    'dataset': root.DATASETS,
    'datasets': root.DATASETS,
    'default_hooks': root.HOOKS,
    'log_processor': root.LOG_PROCESSORS,
    'metrics': root.METRICS,
    'model': root.MODELS,
    'model_wrapper_cfg': root.MODEL_WRAPPERS,
    'optim_wrapper': root.OPTIM_WRAPPERS,
    'optimizer': root.OPTIMIZERS,
    'param_scheduler': root.PARAM_SCHEDULERS,
    'pipeline': root.TRANSFORMS,
    'sampler': root.DATA_SAMPLERS,
    'test_cfg': root.LOOPS,
    'test_evaluator': root.METRICS,
    'train_cfg': root.LOOPS,
    'val_cfg': root.LOOPS,
    'val_evaluator': root.METRICS,
    'vis_backends': root.VISBACKENDS,
    'visualizer': root.VISUALIZERS,
    'worker_init_fn': root.FUNCTIONS,
}

# Arguments that MMEngine removes before it builds a type from a registry.
TAKEN_OUT = {
    root.HOOKS: {'priority'},
    root.OPTIM_WRAPPERS: {'constructor', 'paramwise_cfg'},
    root.PARAM_SCHEDULERS: {'convert_to_iter_based'},
}

# Dicts without a type whose keys are known.
PLAIN = {
    'auto_scale_lr': {'base_batch_size', 'enable'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'optim_wrapper.paramwise_cfg': {
        'bias_decay_mult',
        'bias_lr_mult',
        'bypass_duplicate',
        'custom_keys',
        'dcn_offset_lr_mult',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'norm_decay_mult',
    },
    'randomness': accepted_arguments(Runner.set_randomness),
    **{
        f'{split}_dataloader': (accepted_arguments(DataLoader) or set())
        | {'num_batch_per_epoch'}
        for split in ('train', 'val', 'test')
    },
}

MARKS = {'_delete_', '_scope_', 'type'}  # MMEngine's own keys, in any dict

# Below the top level: dicts that are data, or whose 'type' is not a registered name.
FREE = re.compile(
    r'_args$|_cfg$|_pathway$|^(clip_grad|consensus|custom_keys|metainfo|policies)$'
)

# Places where a dict without a type is always a mistake.
TYPED = re.compile(
    r'^(default_hooks|custom_hooks)\.[^.]+$|\.pipeline\.\d+$|\.(dataset|optimizer)$'
    r'|^model(\.(backbone|cls_head|clip|text))*$'
)

FOREIGN = ('timm.', 'torchvision.')  # MMAction2 builds these itself


class Place(NamedTuple):
    """The place of a value in a config."""

    path: str
    registry: Optional[Registry]
    scope: str


def top(cfg: Config) -> Place:
    return Place('', None, cfg.get('default_scope') or 'mmengine')


def enter(place: Place, key: str) -> Place:
    path = f'{place.path}.{key}' if place.path else key
    return place._replace(path=path, registry=REGISTRIES.get(key, place.registry))


def arguments_at(node: dict, place: Place) -> Optional[set[str]]:
    """Return the keys that a dict may have besides MARKS; None if it may have any."""
    target = target_at(node, place)
    if target is None:
        return PLAIN.get(place.path)
    names = accepted_arguments(target)
    if names is None:
        return None
    if place.path == 'train_cfg' and 'type' not in node:
        names = names | {'by_epoch'}
    return names | TAKEN_OUT.get(place.registry, set())


def target_at(node: dict, place: Place) -> Optional[Callable]:
    """Find the class or function that a dict configures, if any."""
    kind = node.get('type')
    if kind is None:
        return _default_target(node, place.path)
    if not isinstance(kind, str):
        return kind
    if kind.startswith(FOREIGN):
        return None
    first = place.registry or root.MODELS
    if place.path.endswith('_evaluator') and 'metrics' in node:
        first = root.EVALUATOR
    for registry in (first, *REGISTRIES.values()):
        with _in_scope(registry, place.scope) as local:
            try:
                found = local.get(kind)
            except RuntimeError:  # a dotted name that cannot be imported
                found = None
        if found is not None:
            return found
    with _in_scope(first, place.scope) as local:
        names = _registered(local)
    raise ConfigError(
        f'{place.path}.type: there is no {first.name} called {kind!r}'
        f'{suggest(kind, names)}'
    )


def _in_scope(registry: Registry, scope: str) -> AbstractContextManager[Registry]:
    """Return the registry of a scope, where MMEngine looks up a type."""
    if registry is root.FUNCTIONS:  # looked up in the root only
        return nullcontext(registry)
    return registry.switch_scope_and_registry(scope)


def _default_target(node: dict, path: str) -> Optional[Callable]:
    """Return the class that MMEngine builds if a dict has no type."""
    if path == 'train_cfg':
        by_epoch = node.get('by_epoch', 'max_iters' not in node)
        return EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop
    if path.endswith('_evaluator') and 'metrics' in node:
        return Evaluator
    return {
        'log_processor': LogProcessor,
        'optim_wrapper': OptimWrapper,
        'test_cfg': TestLoop,
        'val_cfg': ValLoop,
    }.get(path)


def _registered(registry: Optional[Registry]) -> set[str]:
    if registry is None:
        return set()
    return {*registry.module_dict, *_registered(registry.parent)}


def suggest(word: str, names: Iterable[str]) -> str:
    """Suggest what was probably meant: the nearest name, or all if they are few."""
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return f'; did you mean {" or ".join(map(repr, near))}?'
    return f'; there are {", ".join(names)}' if 0 < len(names) <= 20 else ''
