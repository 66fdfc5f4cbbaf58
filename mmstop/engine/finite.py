"""Stop at, or skip, a training step whose numbers are NaN or infinite."""

import math
from collections.abc import Sequence
from typing import Any, Optional

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from mmstop.engine.hooks import find_parts
from mmstop.errors import ConfigError, typed
from mmstop.registry import HOOKS

__all__ = ['FiniteHook', 'FiniteOptimWrapper']

NAME_KEYS = ('filename', 'frame_dir', 'video_id')  # of a sample, the best name first
UNNAMED = f'a sample without a name (let PackActionInputs keep meta_keys={NAME_KEYS})'
REMEDY = (
    'Look at these videos, or lower the learning rate or optim_wrapper.clip_grad; '
    "default_hooks.finite=dict(type='FiniteHook', action='skip') passes over such steps"
)


@HOOKS.register_module()
class FiniteHook(Hook):
    """Prevent optimizer steps on a loss or gradients that are NaN or infinite.

    In training, the runner's optimizer wrapper becomes a :class:`FiniteOptimWrapper`
    that asks this hook. The hook makes the samples of the data set keep their file
    names, so that the error can name them.

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

    priority = 'LOW'  # after EMAHook and before CheckpointHook

    @typed
    def __init__(self, action: str = 'raise', max_skips: int = 20) -> None:
        if action not in ('raise', 'skip'):
            raise ConfigError(f"action={action!r} is unknown; say 'raise' or 'skip'")
        if max_skips < 0:
            raise ConfigError(f'max_skips={max_skips} is negative; say 0 or more')
        self.action = action
        self.max_skips = max_skips
        self.batch: Any = None
        self._in_epoch = 0
        self._averages: dict[EMAHook, dict[str, Tensor]] = {}

    def before_train(self, runner: Runner) -> None:
        """Watch the steps of all optimizers; of two such hooks, the last one decides.

        Data workers that are already running, as in ``IterBasedTrainLoop``, do not see
        that they are to keep the names of files.
        """
        self.runner = runner
        wrapper = runner.optim_wrapper
        several = isinstance(wrapper, OptimWrapperDict)
        for one in wrapper.values() if several else [wrapper]:
            FiniteOptimWrapper.watch(one, self)
        for part in find_parts(runner.train_dataloader.dataset):
            for step in getattr(getattr(part, 'pipeline', None), 'transforms', []):
                if hasattr(step, 'meta_keys'):
                    step.meta_keys = tuple(dict.fromkeys((*step.meta_keys, *NAME_KEYS)))

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
        self.batch = data_batch

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Undo what ``EMAHook`` did after a skipped step."""
        for hook, state in self._averages.items():
            hook.ema_model.load_state_dict(state)
        self._averages.clear()

    def note_skip(self, fault: str, in_a_row: int) -> None:
        """Count a skipped step, and remember the averages as they are before it.

        Raises:
            FloatingPointError: one optimizer skipped too many steps in a row.
        """
        self._in_epoch += 1
        if in_a_row > self.max_skips:
            raise FloatingPointError(
                f'{fault}; it is skip {in_a_row} in a row and '
                f'max_skips={self.max_skips}. {REMEDY}'
            )
        self.runner.logger.warning(
            f'{fault}; skipped this step, number {self._in_epoch} of the epoch'
        )
        for hook in self.runner.hooks:
            if isinstance(hook, EMAHook):
                state = hook.ema_model.state_dict()
                self._averages[hook] = {k: v.clone() for k, v in state.items()}


class FiniteOptimWrapper(OptimWrapper):
    """Take a step only if the losses since the last one and the gradients are finite.

    All processes decide alike. A NaN in the inputs shows up in the loss. The norm of
    the gradients is computed once, for the decision, for clipping and for the log, and
    the host waits for the GPU once.
    """

    guard: FiniteHook
    seen: list[tuple[Any, Tensor]]  # batches and losses since the last step
    in_a_row = 0  # skipped steps
    norm: Optional[Tensor] = None
    logged = 0.0  # the norm, on the host
    stepped = False

    @classmethod
    def watch(cls, wrapper: OptimWrapper, guard: FiniteHook) -> None:
        """Turn a wrapper of any kind into one that asks a hook before each step.

        Schedulers and hooks already refer to the wrapper, so it stays the same object.
        """
        if not isinstance(wrapper, cls):
            kind = type(wrapper)
            wrapper.__class__ = type(f'Finite{kind.__name__}', (cls, kind), {})
            wrapper.optimizer.register_step_post_hook(wrapper._note_step)
        wrapper.guard, wrapper.seen = guard, []

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: Optional[dict] = None,
        zero_kwargs: Optional[dict] = None,
    ) -> None:
        self.seen.append((self.guard.batch, loss.detach()))
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self._step_if_finite(**step_kwargs or {})
            self.zero_grad(**zero_kwargs or {})

    def _step_if_finite(self, **kwargs: Any) -> None:
        seen, self.seen = self.seen, []
        runner, self.stepped, fault = self.guard.runner, False, ''
        if not self._all_finite([loss for _, loss in seen]):
            fault = f'{_when(runner)}: {_describe(runner, seen)}'
            if self.guard.action == 'raise':
                raise FloatingPointError(f'{fault}. {REMEDY}')
        else:
            self.step(**kwargs)
        if self.stepped:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        fault = fault or f'{_when(runner)}: the scaled gradients are not finite'
        self.guard.note_skip(fault, self.in_a_row)

    def _note_step(self, *args: Any) -> None:
        self.stepped = True  # a loss scaler may leave the step out

    def _all_finite(self, losses: Sequence[Tensor]) -> bool:
        """Tell whether all values are finite in all processes; all are told alike."""
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        self.norm = None
        if grads and not isinstance(self, AmpOptimWrapper):
            kind = (self.clip_grad_kwargs or {}).get('norm_type', 2.0)
            self.norm = get_total_norm(grads, kind)
        numbers = [*losses] if self.norm is None else [*losses, self.norm]
        finite = torch.stack(numbers).isfinite().all().int()
        all_reduce(finite, 'min')
        told, self.logged = torch.stack([finite.to(numbers[-1]), numbers[-1]]).tolist()
        return bool(told)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    def _clip_grad(self) -> None:
        if self.norm is None or self.clip_func is not clip_grad_norm_:
            super()._clip_grad()
            return
        max_norm = self.clip_grad_kwargs['max_norm']
        clip_grads_with_norm_(self._parameters(), max_norm, self.norm)
        self.message_hub.update_scalar('train/grad_norm', self.logged)


# --- What the error says --------------------------------------------------------------


def _when(runner: Runner) -> str:
    return f'epoch {runner.epoch + 1}, iteration {runner.iter + 1}'


def _describe(runner: Runner, seen: Sequence[tuple[Any, Tensor]]) -> str:
    """Say what is not finite, and which videos in which process may be the cause."""
    records = [(*_name_videos(batch), loss.item()) for batch, loss in seen]
    records = [record for of_rank in all_gather_object(records) for record in of_rank]
    if faulty := [name for _, faulty, _ in records for name in faulty]:
        return f'the inputs are not finite in {", ".join(faulty)}'
    lost = [record for record in records if not math.isfinite(record[2])]
    names = ', '.join(name for names, _, _ in lost or records for name in names)
    if lost:
        return f'the loss is {lost[0][2]} on the batch of {names}'
    grads = [
        name
        for name, p in runner.model.named_parameters()
        if p.grad is not None and not p.grad.norm().isfinite()
    ]
    more = f' and {len(grads) - 3} more' if len(grads) > 3 else ''
    return (
        f'the gradients of {", ".join(grads[:3])}{more} are not finite after the batch '
        f'of {names}'
    )


def _name_videos(batch: Any) -> tuple[list[str], list[str]]:
    """Name the samples of a batch, and those whose inputs are not finite."""
    batch = batch if isinstance(batch, dict) else {}
    samples, inputs = batch.get('data_samples') or [], batch.get('inputs', [])
    names = [
        next((str(sample.get(k)) for k in NAME_KEYS if sample.get(k)), UNNAMED)
        for sample in samples
    ]
    views = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    finite = [[torch.isfinite(x).all() for x in view] for view in views]
    faulty = [name for name, *ok in zip(names, *finite) if not all(ok)]
    return names or [UNNAMED], faulty
