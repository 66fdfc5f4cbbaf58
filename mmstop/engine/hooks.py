"""Hooks: checkpoints of what was trained, repeatable epochs, a line on the model."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmstop.engine.saving import SafeCheckpointHook
from mmstop.errors import ConfigError, typed
from mmstop.models import CLIPTextHead
from mmstop.registry import FUNCTIONS, HOOKS
from mmstop.towers import CLIPTower

__all__ = [
    'ModelInfoHook',
    'ReseedHook',
    'TrainableCheckpointHook',
    'seed_worker',
    'unwrap',
]


@HOOKS.register_module()
class TrainableCheckpointHook(SafeCheckpointHook):
    """Save what was trained and refuse to load what does not fit.

    The frozen parameters of CLIP's towers are left out, since the towers bring them;
    all else is saved, in the order that :class:`SafeCheckpointHook` keeps.

    Args:
        strict: raise where a checkpoint lacks a trainable parameter, has one that the
            model does not know or of another shape, or was trained on other classes or
            on the same in another order. False is for transfer between
            models: what does not fit is skipped, as MMEngine does.
        **kwargs: those of MMEngine's ``CheckpointHook``.

    Raises:
        ConfigError: on loading, see ``strict``.
    """

    @typed
    def __init__(self, strict: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strict = strict

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop the towers' frozen parameters, and note the classes of text heads."""
        frozen = _frozen_in_towers(unwrap(runner.model))
        for entry, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
            for name in frozen:
                checkpoint.get(entry, {}).pop(prefix + name, None)
        checkpoint.setdefault('meta', {})['classes'] = _classes(unwrap(runner.model))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model before anything is copied."""
        if not self.strict:
            return
        if found := find_misfits(unwrap(runner.model), checkpoint):
            raise ConfigError(
                f'checkpoint {runner._load_from or "of this run"} does not fit the '
                f'model of this config: {found}. Use the config that it was trained '
                f'with, or, to start from what fits, '
                f'default_hooks.checkpoint.strict=False'
            )


def find_misfits(model: nn.Module, checkpoint: dict) -> str:
    """Tell in which parameters and classes a checkpoint and a model differ; '' if none.

    Frozen parameters may be missing, since the towers bring them.
    """
    state = checkpoint.get('state_dict', checkpoint)
    given = {
        name.removeprefix('module.'): tuple(value.shape)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    classes, before = _classes(model), checkpoint.get('meta', {}).get('classes', {})
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
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
            if before.get(head, classes[head]) != classes[head]
        ],
    }
    return '; '.join(f'it {fault}: {n}' for fault, n in faults.items() if n)


def refuse_untrained(model: nn.Module, config: str) -> None:
    """Refuse to use a model as it was built, if some of it is to be trained.

    Args:
        config: what to call its config.

    Raises:
        ConfigError: it needs a checkpoint.
    """
    if trained := sum(p.numel() for p in model.parameters() if p.requires_grad):
        raise ConfigError(
            f'no checkpoint given, but {trained:,} parameters of the model of {config} '
            f'are trained; give the checkpoint'
        )


def unwrap(model: Any) -> Any:
    """Return the model inside a wrapper of several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def _frozen_in_towers(model: nn.Module) -> list[str]:
    return [
        f'{prefix}.{name}' if prefix else name
        for prefix, tower in model.named_modules()
        if isinstance(tower, CLIPTower)
        for name, parameter in tower.named_parameters()
        if not parameter.requires_grad
    ]


def _classes(model: nn.Module) -> dict[str, list[str]]:
    """List the classes of text heads, of which no parameter tells."""
    modules = model.named_modules()
    return {name: m.classes for name, m in modules if isinstance(m, CLIPTextHead)}


@HOOKS.register_module()
class ModelInfoHook(Hook):
    """Log in one line how much of the model trains and where CLIP came from."""

    def before_run(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        total = sum(size for size, _ in sizes)
        trained = sum(size for size, trains in sizes if trains)
        towers = [
            f'{type(tower).__name__} {tower.arch} with weights {tower.source}'
            for tower in model.modules()
            if isinstance(tower, CLIPTower)
        ]
        runner.logger.info(
            f'{trained:,} of {total:,} parameters train '
            f'({100 * trained / max(total, 1):.1f} %); {", ".join(towers) or "no CLIP"}'
        )


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seed every epoch by its number, so that a resumed run repeats an undisturbed one.

    Without it the random state at an epoch's start depends on all that ran before.
    Data workers take part through :func:`seed_worker`; each draws from its own state,
    so that a run repeats only with the same number of them.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        sequence = np.random.SeedSequence([runner.seed, runner.epoch, get_rank()])
        _seed_all(int(sequence.generate_state(1)[0]))


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed a data worker by what the main process drew when the epoch began.

    MMEngine's own function gives a worker the same seed in every epoch. It takes
    ``persistent_workers=False`` for workers to be seeded anew.
    """
    _seed_all(torch.initial_seed() % 2**32)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
