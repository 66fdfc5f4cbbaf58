"""Early checks of a config: mistyped keys and missing files, before anything is built.

MMEngine finds a mistyped argument when it builds the part, a missing annotation file
after it has built the model, and a mistyped option never. These checks read the
signatures of the classes that a config names, and look for the files that it names.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

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

from mmstop.towers import CLIPTower

from .arguments import accepted_arguments

__all__ = ['ConfigError', 'check_config', 'load_config']


class ConfigError(ValueError):
    """A config, an option or a file that it names is at fault; the text says how."""


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config and merge what ``--cfg-options`` gave, {'a.b.c': value}.

    Raises:
        ConfigError: there is no such file, or an option is not in the config and no
            argument of the class that it would configure.
    """
    if not Path(path).is_file():
        raise ConfigError(f'config {path!r}: there is no such file')
    cfg = Config.fromfile(path)
    if options:
        for option in options:
            _check_option(cfg, option, options)
        cfg.merge_from_dict(options)
    return cfg


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Check types, arguments and files of a config, building nothing.

    Args:
        cfg: the config as it will run.
        splits: whose files to look for, of 'train', 'val' and 'test'.

    Raises:
        ConfigError: the first fault found.
    """
    for key in cfg:
        if key in RUNNER_KEYS:
            _check_node(cfg[key], _enter(_top(cfg), key))
        elif near := difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.9):
            raise ConfigError(f'{key}: nothing reads this key; did you mean {near[0]!r}?')
    _check_checkpoint(cfg.get('load_from'))
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for path, dataset in _datasets(
            loader.get('dataset'), f'{split}_dataloader.dataset'
        ):
            _check_dataset_files(path, dataset)


# --- What may stand where -----------------------------------------------------------

# Top-level keys that somebody reads: arguments of the runner, and what it asks for.
RUNNER_KEYS = (accepted_arguments(Runner) or set()) - {'cfg'} | {
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
}

# The registry in which a type is looked up first, by the key under which it stands;
# other keys inherit that of the dict around them.
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

# Arguments that MMEngine takes out before it builds a type of a registry.
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

MARKS = {'_delete_', '_scope_', 'type'}  # keys of MMEngine's own, in any dict

# Below the top level: dicts that are data, or in which 'type' is no registered name.
FREE = re.compile(r'_args$|_cfg$|^(clip_grad|custom_keys|metainfo)$')

# Where a dict without a type is always a mistake.
TYPED = re.compile(
    r'^(default_hooks|custom_hooks)\.[^.]+$|\.pipeline\.\d+$|\.(dataset|optimizer)$'
    r'|^model(\.(backbone|cls_head|clip|text))*$'
)

FOREIGN = ('timm.', 'torchvision.')  # MMAction2 builds these itself


class _Place(NamedTuple):
    """Where in a config a value stands."""

    path: str
    registry: Optional[Registry]
    scope: str


def _top(cfg: Config) -> _Place:
    return _Place('', None, cfg.get('default_scope') or 'mmengine')


def _enter(place: _Place, key: str) -> _Place:
    path = f'{place.path}.{key}' if place.path else key
    return place._replace(path=path, registry=REGISTRIES.get(key, place.registry))


def _arguments(node: dict, place: _Place) -> Optional[set[str]]:
    """Return the keys that a dict may have besides MARKS; None if any will do."""
    target = _target(node, place)
    if target is None:
        return PLAIN.get(place.path)
    names = accepted_arguments(target)
    if names is None:
        return None
    if place.path == 'train_cfg' and 'type' not in node:
        names = names | {'by_epoch'}
    return names | TAKEN_OUT.get(place.registry, set())


def _target(node: dict, place: _Place) -> Optional[Callable]:
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
    for registry in (first, *_registries()):
        with registry.switch_scope_and_registry(place.scope) as local:
            found = local.get(kind)
        if found is not None:
            return found
    with first.switch_scope_and_registry(place.scope) as local:
        names = _registered(local)
    raise ConfigError(
        f'{place.path}.type: there is no {first.name} called {kind!r}'
        f'{_suggest(kind, names)}'
    )


def _default_target(node: dict, path: str) -> Optional[Callable]:
    """Name the class that MMEngine builds where a dict has no type."""
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


def _registries() -> Iterator[Registry]:
    return (value for value in vars(root).values() if isinstance(value, Registry))


def _registered(registry: Optional[Registry]) -> set[str]:
    if registry is None:
        return set()
    return {*registry.module_dict, *_registered(registry.parent)}


def _suggest(word: str, names: Iterable[str]) -> str:
    """Name what was probably meant: the nearest name, or all of a few."""
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return f'; did you mean {" or ".join(map(repr, near))}?'
    return f'; there are {", ".join(names)}' if 0 < len(names) <= 20 else ''


# --- Options ------------------------------------------------------------------------


def _check_option(cfg: Config, option: str, options: dict) -> None:
    """Follow an option into the config, to a key that exists or a new argument."""
    keys = option.split('.')
    if keys[0] not in RUNNER_KEYS:
        raise ConfigError(_no_such_key(cfg, option))
    node: Any = cfg
    place = _top(cfg)
    for key in keys:
        if key in MARKS:
            return
        if isinstance(node, (list, tuple)):
            if not (key.isdigit() and int(key) < len(node)):
                raise ConfigError(
                    f'--cfg-options {option}: {place.path} is a list of {len(node)}; '
                    f'after it comes a number from 0 to {len(node) - 1}, not {key!r}'
                )
            node, place = node[int(key)], _enter(place, key)
        elif isinstance(node, (dict, Config)):
            if key not in node:
                _check_new_key(key, node, place, option, options)
                return
            node, place = node[key], _enter(place, key)
        else:
            raise ConfigError(
                f'--cfg-options {option}: {place.path} is {node!r} and has no keys'
            )


def _check_new_key(
    key: str, node: dict, place: _Place, option: str, options: dict
) -> None:
    """Allow a new key where the class that is configured has such an argument."""
    if not place.path:  # a key of the runner, which the config file leaves out
        return
    if f'{place.path}.{key}.type' in options:  # a new part, checked when it is merged
        return
    node = dict(node)
    if f'{place.path}.type' in options:
        node['type'] = options[f'{place.path}.type']
    if FREE.search(place.path.split('.')[-1]) and place.path not in PLAIN:
        return
    names = _arguments(node, place)
    if names is None:
        if 'type' in node:
            return
        names = set()
    if key not in names:
        raise ConfigError(
            f'--cfg-options {option}: {place.path} has no {key!r}'
            f'{_suggest(key, names | set(node) - MARKS)}'
        )


def _no_such_key(cfg: Config, option: str) -> str:
    top, _, rest = option.partition('.')
    if top not in cfg:
        return (
            f'--cfg-options {option}: the config has no {top!r}'
            f'{_suggest(top, RUNNER_KEYS)}'
        )
    copies = [
        path
        for key in cfg
        if key in RUNNER_KEYS
        for path in _copies_of(cfg[top], cfg[key], key)
    ]
    instead = ' or '.join(f'{path}.{rest}' if rest else path for path in copies[:3])
    return (
        f'--cfg-options {option}: {top} is a helper variable, used up when the config '
        f'file was read, so that changing it has no effect; set '
        f'{instead or "the keys that were made from it"} instead'
    )


def _copies_of(value: Any, node: Any, path: str) -> Iterator[str]:
    """Find the places that hold ``value``."""
    if type(node) is type(value) and node == value:
        yield path
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _copies_of(value, child, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _copies_of(value, child, f'{path}.{i}')


# --- Nodes and files ----------------------------------------------------------------


def _check_node(node: Any, place: _Place) -> None:
    """Check a value and all below it."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            _check_node(child, _enter(place, str(i)))
    if not isinstance(node, dict):
        return
    place = place._replace(scope=node.get('_scope_', place.scope))
    if 'type' not in node and TYPED.search(place.path):
        raise ConfigError(
            f"{place.path} has no 'type'; its keys are {', '.join(map(str, node))}"
        )
    names = _arguments(node, place)
    for key, child in node.items():
        if names is not None and key not in names | MARKS:
            owner = node.get('type', place.path)
            owner = owner if isinstance(owner, str) else owner.__name__
            raise ConfigError(
                f'{place.path}.{key}: {owner} takes no {key!r}{_suggest(key, names)}'
            )
        if not FREE.search(str(key)):
            _check_node(child, _enter(place, str(key)))
    target = _target(node, place)
    if isinstance(target, type) and issubclass(target, CLIPTower):
        _check_tower_files(node, place.path)


def _check_tower_files(tower: dict, path: str) -> None:
    arch, weights = tower.get('arch'), tower.get('weights')
    if isinstance(arch, str) and arch.endswith('.json') and not Path(arch).is_file():
        raise ConfigError(f'{path}.arch: there is no file {arch!r}')
    if not isinstance(weights, str) or Path(weights).is_file():
        return
    if '/' in weights or weights.endswith(('.pt', '.pth', '.bin', '.safetensors')):
        raise ConfigError(
            f'{path}.weights: there is no file {weights!r}; give the path of a '
            f"downloaded file, or a tag of open_clip such as 'openai'"
        )


def _check_checkpoint(path: Optional[str]) -> None:
    if path is not None and _is_local(path) and not Path(path).is_file():
        raise ConfigError(f'checkpoint {path!r}: there is no such file')


def _datasets(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Find the datasets in a dataloader's, which may be wrapped or joined."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _datasets(child, f'{path}.{i}')
    elif isinstance(node, dict):
        if 'ann_file' in node:
            yield path, node
        for key in ('dataset', 'datasets'):
            yield from _datasets(node.get(key), f'{path}.{key}')


def _check_dataset_files(path: str, dataset: dict) -> None:
    """Look for the annotation file and the folders, joined as ``BaseDataset`` does."""
    data_root = dataset.get('data_root') or ''
    remedy = (
        f'prepare the data set (tools/data), or change {path}.ann_file, data_root or '
        f'data_prefix (data_root is {data_root!r})'
    )
    ann_file = dataset['ann_file']
    if isinstance(ann_file, str) and ann_file and _is_local(data_root, ann_file):
        file = Path(data_root, ann_file)
        if not file.is_file():
            raise ConfigError(
                f"{path}.ann_file: there is no file '{file}'; {remedy}"
            )
    for key, prefix in (dataset.get('data_prefix') or {}).items():
        if isinstance(prefix, str) and prefix and _is_local(data_root, prefix):
            folder = Path(data_root, prefix)
            if not folder.is_dir():
                raise ConfigError(
                    f"{path}.data_prefix.{key}: there is no folder '{folder}'; {remedy}"
                )


def _is_local(*paths: str) -> bool:
    """Tell paths from addresses such as 's3://...'; one letter is a Windows drive."""
    return not any(re.match(r'[\w-]{2,}:', path) for path in paths)
