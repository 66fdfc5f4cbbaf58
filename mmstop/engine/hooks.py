"""Hooks: checkpoints of what was trained, repeatable epochs, a line on the model."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmstop.registry import FUNCTIONS, HOOKS
from mmstop.towers import CLIPTower

__all__ = ['ModelInfoHook', 'ReseedHook', 'TrainableCheckpointHook', 'seed_worker']


@HOOKS.register_module()
class TrainableCheckpointHook(CheckpointHook):
    """Save what was trained and refuse to load what does not fit.

    The frozen parameters of CLIP's towers are left out, since the towers bring them;
    all else is saved. A new checkpoint is written beside its place, renamed once it is
    complete, and only then pointed to and its predecessors removed, so that a run
    killed at any moment resumes from a whole one.

    Args:
        strict: raise where a checkpoint lacks a trainable parameter, has one that the
            model does not know or of another shape. False is for transfer between
            models: what does not fit is skipped, as MMEngine does.
        **kwargs: those of MMEngine's ``CheckpointHook``.

    Raises:
        ValueError: on loading, see ``strict``.
    """

    def __init__(self, strict: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strict = strict

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop the towers' frozen parameters, the averaged model's too."""
        frozen = _frozen_in_towers(_unwrap(runner.model))
        for entry, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
            for name in frozen:
                checkpoint.get(entry, {}).pop(prefix + name, None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model before anything is copied."""
        if not self.strict:
            return
        state = checkpoint.get('state_dict', checkpoint)
        if found := find_misfits(_unwrap(runner.model), state):
            raise ValueError(
                f'checkpoint {runner._load_from or "of this run"} does not fit the '
                f'model of this config: {found}. Use the config that it was trained '
                f'with, or, to start from what fits, '
                f'default_hooks.checkpoint.strict=False'
            )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        outdated = self._remember(runner, step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        local = isinstance(self.file_backend, LocalBackend)
        runner.save_checkpoint(
            self.out_dir,
            f'{name}.part' if local else name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        if local:
            _put_in_place(Path(f'{self.last_ckpt}.part'))
        pointer = Path(runner.work_dir, 'last_checkpoint.part')
        pointer.write_text(self.last_ckpt)
        _put_in_place(pointer)
        for old in outdated:
            path = self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(old)
            )
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _remember(self, runner: Runner, step: int) -> list[int]:
        """Note a checkpoint among those to keep; return those to remove."""
        if self.max_keep_ckpts <= 0 or step in self.keep_ckpt_ids:
            return []
        outdated = []
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            outdated.append(self.keep_ckpt_ids.popleft())
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated


def find_misfits(model: nn.Module, state: dict) -> str:
    """Tell in which parameters a ``state_dict`` and a model differ; '' if in none.

    Frozen ones may be missing, since the towers bring them.
    """
    given = {
        name.removeprefix('module.'): tuple(value.shape)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
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
    }
    return '; '.join(f'it {fault}: {n}' for fault, n in faults.items() if n)


def _put_in_place(part: Path) -> None:
    """Make a file durable, then give it its name without the '.part'."""
    with part.open('rb') as file:
        os.fsync(file.fileno())
    part.replace(part.with_suffix(''))


def _unwrap(model: Any) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _frozen_in_towers(model: nn.Module) -> list[str]:
    return [
        f'{prefix}.{name}' if prefix else name
        for prefix, tower in model.named_modules()
        if isinstance(tower, CLIPTower)
        for name, parameter in tower.named_parameters()
        if not parameter.requires_grad
    ]


@HOOKS.register_module()
class ModelInfoHook(Hook):
    """Log in one line how much of the model trains and where CLIP came from."""

    def before_run(self, runner: Runner) -> None:
        model = _unwrap(runner.model)
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
    Data workers take part through :func:`seed_worker`.
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
