"""The parts of a config: their places, their classes and the arguments of these."""

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple, Optional

from mmaction.datasets import SampleFrames
from mmaction.models import BaseHead
from mmengine import registry as root
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import BaseOptimWrapper, OptimWrapper, _ParamScheduler
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from torch import nn
from torch.utils.data import DataLoader

from mmstop.errors import ConfigError
from mmstop.models import CLIPTextHead
from mmstop.towers import CLIPTower

__all__ = [
    'DICTS',
    'FREE',
    'RESERVED',
    'RUNNER_KEYS',
    'SPLITS',
    'Part',
    'accepted_arguments',
    'pipelines',
    'suggest',
    'towers',
    'walk',
]

SPLITS = ('train', 'val', 'test')
RESERVED = {'_delete_', '_scope_', 'type'}  # MMEngine's own keys, in any dict
FOREIGN = ('timm.', 'torchvision.')  # types that MMAction2 builds itself

# Below the top level: dicts that are data, or whose 'type' is not a registered name.
FREE = re.compile(
    r'_args$|_cfg$|_pathway$|^(clip_grad|consensus|custom_keys|metainfo|policies)$'
)


def _names(function: Callable) -> set[str]:
    """Return the names by which the arguments of a function or class can be given."""
    return {
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    } - {'self'}


# What ``**kwargs`` may hold in classes that do not hand all of it to their base.
REST = {
    CheckpointHook: _names(Runner.save_checkpoint),
    CLIPTextHead: _names(BaseHead) - {'in_channels', 'num_classes'},
    SampleFrames: set(),
}
# Keys that MMEngine takes out of a dict before it builds its class.
TAKEN_OUT = {
    BaseOptimWrapper: {'constructor', 'paramwise_cfg'},
    Hook: {'priority'},
    _ParamScheduler: {'convert_to_iter_based'},
}
# Arguments of base classes that are rarely all that ``**kwargs`` holds.
GENERAL = {'data_preprocessor', 'defaults', 'init_cfg', 'params'}

# The keys of dicts without a type.
UNTYPED = {
    'auto_scale_lr': {'base_batch_size', 'enable'},
    'env_cfg': {'cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'},
    'log_processor': _names(LogProcessor),
    'optim_wrapper': _names(OptimWrapper) | TAKEN_OUT[BaseOptimWrapper],
    'randomness': _names(Runner.set_randomness),
    'test_cfg': _names(TestLoop),
    'train_cfg': _names(EpochBasedTrainLoop)
    | _names(IterBasedTrainLoop)
    | {'by_epoch'},
    'val_cfg': _names(ValLoop),
}
UNTYPED |= {
    f'{split}_dataloader': _names(DataLoader) | {'num_batch_per_epoch'}
    for split in SPLITS
}

# Top-level keys that are in use: arguments of the runner, and keys that it looks up.
RUNNER_KEYS = _names(Runner) - {'cfg'} | {
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
}
DICTS = {
    name
    for name, parameter in inspect.signature(Runner).parameters.items()
    if 'Dict' in str(parameter.annotation)
}
REGISTRIES = [
    value
    for value in vars(root).values()
    if isinstance(value, Registry) and value is not root.INFERENCERS
]


class Part(NamedTuple):
    """A dict of a config, and where it is."""

    path: str  # 'model.backbone'; '' for the whole config
    node: dict
    scope: str = 'mmengine'

    @property
    def kind(self) -> str:
        """The name of its class, without the scope; '' if it has no type."""
        kind = self.node.get('type', '')
        return getattr(kind, '__name__', str(kind)).rpartition('.')[2]

    def target(self) -> Optional[Callable]:
        """Find the class or function that it configures; None if it is unknown."""
        kind = self.node.get('type')
        if not isinstance(kind, str):
            return kind
        package, _, name = kind.rpartition('.')
        if package:
            with suppress(ImportError):
                import_module(f'{package}.registry')
        found = _registered(package or self.scope).get(name)
        if found is None and package:
            with suppress(RuntimeError):  # it cannot be imported
                found = root.MODELS.get(kind)
        return found

    def is_a(self, *classes: type) -> bool:
        target = self.target()
        return isinstance(target, type) and issubclass(target, classes)

    def arguments(self) -> Optional[set[str]]:
        """Return the keys that it may have besides RESERVED; None if any.

        Raises:
            ConfigError: there is no class or function of its type.
        """
        kind = self.node.get('type')
        if kind is None:
            return UNTYPED.get(self.path)
        target = self.target()
        if target is not None:
            return accepted_arguments(target)
        if kind.startswith(FOREIGN):
            return None
        what = 'function' if self.kind.islower() else 'class'
        raise ConfigError(
            f'{self.path}.type: there is no {what} called {kind!r}'
            f'{suggest(kind, _registered(self.scope))}'
        )


def walk(cfg: Config) -> Iterator[Part]:
    """Find all dicts of a config, outer ones first, except for mere data."""
    scope = cfg.get('default_scope') or 'mmengine'
    yield from _walk('', dict(cfg.items()), scope)


def _walk(path: str, node: Any, scope: str) -> Iterator[Part]:
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        scope = node.get('_scope_', scope)
        yield Part(path, node, scope)
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    for key, child in children:
        if not (path and FREE.search(str(key))):
            yield from _walk(f'{path}.{key}' if path else str(key), child, scope)


def towers(cfg: Config) -> Iterator[Part]:
    """Find the configs of CLIP's towers."""
    for part in walk(cfg):
        if 'arch' in part.node and part.is_a(CLIPTower):
            yield part


def pipelines(cfg: Config) -> Iterator[tuple[str, list[dict]]]:
    """Find all pipelines and where they are."""
    for part in walk(cfg):
        for key, steps in part.node.items():
            if str(key).endswith('pipeline') and isinstance(steps, (list, tuple)):
                if all(isinstance(step, dict) for step in steps):
                    yield f'{part.path}.{key}'.lstrip('.'), list(steps)


def accepted_arguments(target: Callable) -> Optional[set[str]]:
    """Return the argument names of a class or function; None if it may have any.

    The ``**kwargs`` of a constructor are the arguments of the next class in the MRO,
    unless it pops some of them, or that class is so general that they probably serve
    another purpose.
    """
    if not inspect.isclass(target):
        return None if _takes_any(target) else _names(target)
    taken = [keys for base, keys in TAKEN_OUT.items() if issubclass(target, base)]
    names: set[str] = set().union(*taken)
    inits = {c: vars(c)['__init__'] for c in target.__mro__ if '__init__' in vars(c)}
    first = next(iter(inits))
    for cls, init in inits.items():
        if cls is object or cls is nn.Module:
            return names if cls is first else None
        try:
            own = _names(init)
        except ValueError:  # written in C without a signature
            return None
        names |= own
        if cls in REST:
            return names | REST[cls]
        if not _takes_any(init):
            return None if own <= GENERAL and cls is not first else names
        if 'pop' in inspect.unwrap(init).__code__.co_names:
            return None
    return None


def _takes_any(function: Callable) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _registered(scope: str) -> dict[str, Callable]:
    """Collect what MMEngine finds in a scope; no two registries share a name."""
    found: dict[str, Callable] = {}
    for registry in REGISTRIES:
        local: Any = registry.children.get(scope, registry)
        with suppress(ImportError):
            registry.children.get(scope, registry).import_from_location()
        while local is not None:
            found = {**local.module_dict, **found}
            local = local.parent
    return found


def suggest(word: str, names: Collection[str]) -> str:
    """Suggest what was probably meant: the nearest names, or all if they are few."""
    near = difflib.get_close_matches(word, list(names), n=3, cutoff=0.6)
    if near:
        return f'; did you mean {" or ".join(map(repr, near))}?'
    return f'; there are {", ".join(sorted(names))}' if 0 < len(names) <= 20 else ''
