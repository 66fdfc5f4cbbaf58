"""A patch for MMEngine's schedules: parts that are too short to work."""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.runner import Runner

from .wrapping import patches


@patches('_build_param_scheduler', Runner)
def leave_out_short_parts(
    original: Callable, runner: Runner, scheduler: Any, optim_wrapper: Any
) -> list:
    """Leave out what is over before it takes effect, and log a warning.

    Symptom: if an epoch has few batches, a warm-up may last a single step. The learning
    rate then stays at ``start_factor`` of its value for the whole run. A warm-up of no
    step, or a part that would begin after the end of a short run, ends in ``ValueError:
    end should be larger than begin``. A part whose own ``end`` is not after its
    ``begin`` still does.
    Versions: mmengine <= 0.10.7.
    Delete when ``LinearLR(end=1)`` reaches its ``end_factor``.
    """
    parts = scheduler if isinstance(scheduler, Sequence) else [scheduler]
    kept = [p for p in parts if not isinstance(p, dict) or _lasts(p, runner)]
    return original(runner, kept, optim_wrapper)


def _lasts(part: dict, runner: Runner) -> bool:
    by_epoch = part.get('by_epoch', True)
    whole = runner.max_epochs if by_epoch else runner.max_iters
    begin, end = part.get('begin', 0), part.get('end', whole)
    if 'end' in part and end <= begin:
        return True  # for MMEngine to report
    unit = 'epochs' if by_epoch else 'steps'
    where = f'{unit} {begin:g} to {end:g}'
    if part.get('convert_to_iter_based'):
        steps = len(runner.train_dataloader)
        begin, end, unit = int(begin * steps), int(end * steps), 'steps'
    name = str(getattr(part['type'], '__name__', part['type']))
    needed = 2 if name.rpartition('.')[2].startswith('Linear') else 1
    if end - begin < needed:
        runner.logger.warning(
            f'{name} of param_scheduler is left out: its range, {where} of {whole}, '
            f'has {max(0, end - begin)} of the {needed} {unit} that it needs'
        )
    return end - begin >= needed
