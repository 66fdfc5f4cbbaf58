"""Stop at, or skip, a training step whose numbers are NaN or infinite."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, update_wrapper
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.utils import get_total_norm

from mmstop.errors import ConfigError, typed
from mmstop.registry import HOOKS

__all__ = ['FiniteHook']

NAME_KEYS = ('filename', 'frame_dir', 'video_id')  # of a sample, the best name first


class Record(NamedTuple):
    """What the error says about a batch; created only if there is an error."""

    names: list[str]
    faulty: list[str]  # those whose inputs are not finite
    loss: float


@HOOKS.register_module()
class FiniteHook(Hook):
    """Prevent optimizer steps on a loss or gradients that are NaN or infinite.

    Before each step, the hook checks the losses since the last step and the norm of all
    gradients, across all processes. This costs one synchronisation with the GPU. A NaN
    in the inputs shows up in the loss. The hook makes the samples of the data set keep
    their file names, so that the error can name them.

    With several optimizers (``OptimWrapperDict``), each is watched separately: one may
    skip a step that another takes. The averaged model then waits for both.

    Under ``AmpOptimWrapper`` the gradients are left to the loss scaler, which uses them
    to test its scale. Steps that it skips count as skipped, whatever ``action`` is.

    Args:
        action: 'raise' stops the run; 'skip' continues with the next batch and leaves
            the parameters, the optimizer and the averaged model (``EMAHook``) as they
            were. Changes made by forward passes, such as BatchNorm statistics, are not
            undone.
        max_skips: the run stops if one optimizer skips more steps than this in a row.
            After 20 skips, a loss scaler that starts at 2**16 has come down to 1/16.

    Raises:
        ValueError: ``action`` is unknown or ``max_skips`` is negative.
        FloatingPointError: during training; the message names the videos.
    """

    @typed
    def __init__(self, action: str = 'raise', max_skips: int = 20) -> None:
        if action not in ('raise', 'skip'):
            raise ConfigError(f"action={action!r} is unknown; say 'raise' or 'skip'")
        if max_skips < 0:
            raise ConfigError(f'max_skips={max_skips} is negative; say 0 or more')
        self.action = action
        self.max_skips = max_skips
        self._batch: Any = None
        self._skipped = False
        self._in_epoch = 0

    def before_train(self, runner: Runner) -> None:
        """Act between a backward pass and its step, where MMEngine has no hook."""
        wrapper = runner.optim_wrapper
        several = isinstance(wrapper, OptimWrapperDict)
        for one in wrapper.values() if several else [wrapper]:
            watched = Watched(one)
            _around(one, 'update_params', partial(self._note_loss, watched))
            _around(one, 'step', partial(self._step, runner, watched))
            one.optimizer.register_step_post_hook(watched.note_step)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                _around(hook, 'after_train_iter', self._unless_skipped)
        _keep_names(runner.train_dataloader.dataset)

    def before_train_epoch(self, runner: Runner) -> None:
        self._in_epoch = 0

    def after_train_epoch(self, runner: Runner) -> None:
        if self._in_epoch:
            runner.logger.warning(
                f'{self._in_epoch} steps of this epoch were skipped for numbers that '
                f'are not finite'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        self._batch, self._skipped = data_batch, False

    def _note_loss(
        self,
        watched: 'Watched',
        update_params: Callable,
        loss: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        watched.seen.append((self._batch, loss.detach()))
        update_params(loss, *args, **kwargs)

    def _unless_skipped(self, update: Callable, *args: Any, **kwargs: Any) -> None:
        if not self._skipped:
            update(*args, **kwargs)

    def _step(
        self, runner: Runner, watched: 'Watched', step: Callable, **kwargs: Any
    ) -> None:
        seen, watched.seen = watched.seen, []
        if not _all_finite([loss for _, loss in seen], watched.gradients()):
            fault = _describe(runner, seen)
            if self.action == 'raise':
                raise FloatingPointError(f'{fault}. {REMEDY}')
            self._skip(runner, watched, fault)
            return
        watched.stepped = False
        step(**kwargs)
        if watched.stepped:
            watched.in_a_row = 0
        else:
            fault = f'{_when(runner)}: the scaled gradients are not finite'
            self._skip(runner, watched, fault)

    def _skip(self, runner: Runner, watched: 'Watched', fault: str) -> None:
        self._skipped = True
        watched.in_a_row += 1
        self._in_epoch += 1
        if watched.in_a_row > self.max_skips:
            raise FloatingPointError(
                f'{fault}; it is skip {watched.in_a_row} in a row and '
                f'max_skips={self.max_skips}. {REMEDY}'
            )
        runner.logger.warning(
            f'{fault}; skipped this step, number {self._in_epoch} of the epoch'
        )


class Watched:
    """An optimizer and what is known about its next step."""

    def __init__(self, wrapper: OptimWrapper) -> None:
        self.wrapper = wrapper
        self.seen: list[tuple[Any, Tensor]] = []  # since the last step
        self.stepped = False
        self.in_a_row = 0  # of skipped steps

    def note_step(self, *args: Any) -> None:
        self.stepped = True

    def gradients(self) -> list[Tensor]:
        """List the gradients; none if a loss scaler checks them itself."""
        if isinstance(self.wrapper, AmpOptimWrapper):
            return []
        groups = self.wrapper.optimizer.param_groups
        return [p.grad for g in groups for p in g['params'] if p.grad is not None]


REMEDY = (
    'Look at these videos, or lower the learning rate or optim_wrapper.clip_grad; '
    "FiniteHook(action='skip') in custom_hooks passes over such steps"
)


def _around(owner: Any, name: str, outer: Callable) -> None:
    """Replace a method of one object with ``outer(method, ...)``."""
    method = getattr(owner, name)
    # The schedulers look for the marks that they left in the method's attributes.
    setattr(owner, name, update_wrapper(partial(outer, method), method))


def _all_finite(losses: Sequence[Tensor], grads: Sequence[Tensor]) -> bool:
    """Tell whether all values are finite in all processes; all get the same answer."""
    norms = [get_total_norm(grads)] if grads else []
    numbers = torch.stack([*losses, *norms]) if losses or norms else torch.zeros(1)
    finite = numbers.isfinite().all().int()
    all_reduce(finite, 'min')
    return bool(finite)


# --- What the error says ------------------------------------------------------------


def _describe(runner: Runner, seen: Sequence[tuple[Any, Tensor]]) -> str:
    """Say what is not finite, and which videos in which process may be the cause."""
    records = [Record(*_name_videos(batch), loss.item()) for batch, loss in seen]
    records = [r for of_rank in all_gather_object(records) for r in of_rank]
    faulty = [name for r in records for name in r.faulty]
    lost = [r for r in records if not torch.tensor(r.loss).isfinite()]
    if faulty:
        return f'{_when(runner)}: the inputs are not finite in {", ".join(faulty)}'
    if lost:
        names = ', '.join(name for r in lost for name in r.names)
        return f'{_when(runner)}: the loss is {lost[0].loss} on the batch of {names}'
    grads = [
        name
        for name, p in runner.model.named_parameters()
        if p.grad is not None and not p.grad.norm().isfinite()
    ]
    names = ', '.join(name for r in records for name in r.names)
    return (
        f'{_when(runner)}: the gradients of {", ".join(grads[:3])}'
        f'{f" and {len(grads) - 3} more" if len(grads) > 3 else ""} are not finite '
        f'after the batch of {names}'
    )


def _when(runner: Runner) -> str:
    return f'epoch {runner.epoch + 1}, iteration {runner.iter + 1}'


def _name_videos(batch: Any) -> tuple[list[str], list[str]]:
    """Name the samples of a batch, and those whose inputs are not finite."""
    batch = batch if isinstance(batch, dict) else {}
    samples, inputs = batch.get('data_samples') or [], batch.get('inputs', [])
    names = [_name(sample) for sample in samples]
    views = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    finite = [[torch.isfinite(x).all() for x in view] for view in views]
    faulty = [name for name, *ok in zip(names, *finite) if not all(ok)]
    return names or [UNNAMED], faulty


UNNAMED = f'a sample without a name (let PackActionInputs keep meta_keys={NAME_KEYS})'


def _name(sample: Any) -> str:
    return next((str(sample.get(k)) for k in NAME_KEYS if sample.get(k)), UNNAMED)


def _keep_names(dataset: Any) -> None:
    """Make samples keep the names of their files, including in joined data sets.

    Data workers that are already running, as in ``IterBasedTrainLoop``, do not see it.
    """
    for step in _steps(dataset):
        if hasattr(step, 'meta_keys'):
            step.meta_keys = tuple(dict.fromkeys((*step.meta_keys, *NAME_KEYS)))


def _steps(dataset: Any) -> Iterator[Any]:
    """Find the transforms of a data set and of the data sets inside it."""
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    inside = [getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', [])]
    for child in inside:
        if child is not None:
            yield from _steps(child)
