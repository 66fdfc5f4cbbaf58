"""Hooks: checkpoints of what was trained, repeatable epochs, a model summary line."""

import random
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmstop.config import datasets
from mmstop.config_check import check_towers
from mmstop.engine.fitting import (
    check_fit,
    list_classes,
    name_optimizers,
    refuse_bad_numbers,
    refuse_other_run,
)
from mmstop.engine.identity import (
    describe_arguments,
    digest_frozen,
    full_names,
    left_out,
)
from mmstop.engine.saving import SafeCheckpointHook
from mmstop.errors import ConfigError, typed
from mmstop.registry import FUNCTIONS, HOOKS
from mmstop.towers import CLIPTower

__all__ = [
    'ModelInfoHook',
    'ReseedHook',
    'TrainableCheckpointHook',
    'find_parts',
    'seed_worker',
    'unwrap',
]


@HOOKS.register_module()
class TrainableCheckpointHook(SafeCheckpointHook):
    """Save what was trained and refuse to load what does not fit.

    The frozen parameters of CLIP's towers are left out if they are the ones that
    ``weights=`` loads. Everything else is saved, in the order of operations described
    in :class:`SafeCheckpointHook`. The checkpoint also holds a digest of what is left
    out and the arguments of the model.

    Args:
        strict: raise if a checkpoint lacks a trainable parameter, or has one that the
            model does not know or that has a different shape. Also raise if it was
            trained with a different CLIP, different model arguments, different classes
            or the same classes in a different order. False is for transfer between
            models: what does not fit is skipped, as in MMEngine.
        other_classes: accept a checkpoint that was trained on other classes or with
            another template, to test it on classes that it has not seen. All else must
            fit.
        other_merging: accept a checkpoint that was trained with another ``merge`` or
            ``merge_frames``, to test it at another cost. All else must fit.
        **kwargs: arguments of MMEngine's ``CheckpointHook``.

    Raises:
        ConfigError: on loading, see ``strict``. Also, regardless of ``strict``, if a
            weight is NaN, infinite or not of the model's kind of number, or if a run
            cannot resume from what the checkpoint holds.
    """

    @typed
    def __init__(
        self,
        strict: bool = True,
        other_classes: bool = False,
        other_merging: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.strict = strict
        self.others = dict(other_classes=other_classes, other_merging=other_merging)
        self._left_out: Optional[dict[str, list[str]]] = None
        self._notes: dict[str, dict] = {}

    def before_train(self, runner: Runner) -> None:
        """Log in one line which list the best checkpoint is chosen on."""
        super().before_train(runner)
        if self.save_best:
            runner.logger.info(f'best checkpoint: {_name_validation(runner)}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop what ``weights=`` loads, and record which model this is."""
        super().before_save_checkpoint(runner, checkpoint)
        model = unwrap(runner.model)
        if self._left_out is None:  # frozen parameters do not change in training
            self._left_out = left_out(model)
            self._notes = dict(
                frozen=digest_frozen(model, self._left_out),
                model=describe_arguments(getattr(runner, 'cfg', {})),
            )
        for name in full_names(self._left_out):
            checkpoint['state_dict'].pop(name, None)
            checkpoint.get('ema_state_dict', {}).pop(f'module.{name}', None)
        checkpoint.setdefault('meta', {}).update(
            classes=list_classes(model),
            optimizers=name_optimizers(runner),
            **self._notes,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model before anything is copied."""
        name = f'checkpoint {runner._load_from or "of this run"}'
        model = unwrap(runner.model)
        refuse_bad_numbers(model, checkpoint, name)
        if runner._resume:
            refuse_other_run(runner, checkpoint, name)
        self._left_out = None
        if not self.strict:
            return
        if warning := check_fit(model, checkpoint, runner.cfg, name, **self.others):
            runner.logger.warning(warning)


def refuse_untrained(model: nn.Module, config: str) -> None:
    """Refuse to use a model without a checkpoint if it has trainable parts.

    Args:
        config: what to call its config.

    Raises:
        ConfigError: the model needs a checkpoint.
    """
    if trained := sum(p.numel() for p in model.parameters() if p.requires_grad):
        raise ConfigError(
            f'no checkpoint given, but {trained:,} parameters of the model of {config} '
            f'are trained; give the checkpoint'
        )


def unwrap(model: Any) -> Any:
    """Return the model inside a distributed wrapper, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def _name_validation(runner: Runner) -> str:
    """Tell which list the best checkpoint is chosen on."""
    if runner.val_loop is None:
        return 'none, since this run does not validate'
    parts = find_parts(runner.val_loop.dataloader.dataset)
    lists = ', '.join(str(getattr(part, 'ann_file', part)) for part in parts)
    if share := getattr(parts[0], 'val_from_train', 0):
        return (
            f'chosen on {len(parts[0])} videos held out of the training list {lists} '
            f'(val_from_train={share})'
        )
    tested = ', '.join(
        str(Path(part.node.get('data_root') or '', part.node['ann_file']))
        for part in datasets(runner.cfg, 'test')
    )
    if lists == tested:
        return (
            f'chosen on the test split, {lists}, so that its test result is '
            f'optimistic; val_from_train=0.1 holds out training videos instead'
        )
    return f'chosen on the validation list {lists}'


def find_parts(dataset: Any) -> list[Any]:
    """List the data sets inside MMEngine's wrappers, or the data set itself."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inside == [None]:
        return [dataset]
    return [part for inner in inside for part in find_parts(inner)]


@HOOKS.register_module()
class ModelInfoHook(Hook):
    """Log in one line how much of the model is trainable and where CLIP came from.

    Raises:
        ConfigError: the towers come from different CLIP models.
    """

    def before_run(self, runner: Runner) -> None:
        check_towers(runner.cfg)
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
    """Seed every epoch by its number, so a resumed run repeats an uninterrupted one.

    Without this hook, the random state at the start of an epoch depends on everything
    that ran before. Data workers are seeded through :func:`seed_worker`. Each draws
    from its own state, so a run is repeatable only with the same number of workers.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        sequence = np.random.SeedSequence([runner.seed, runner.epoch, get_rank()])
        _seed_all(int(sequence.generate_state(1)[0]))


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed a data worker from what the main process drew when the epoch began.

    MMEngine's own function gives a worker the same seed in every epoch. Workers are
    reseeded only with ``persistent_workers=False``.
    """
    _seed_all(torch.initial_seed() % 2**32)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
