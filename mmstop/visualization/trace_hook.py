"""Pictures of what STOP chose, drawn during testing."""

from collections.abc import Sequence
from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmstop.engine.hooks import unwrap
from mmstop.errors import ConfigError, typed
from mmstop.registry import HOOKS

from .hook import class_names, describe, picture_name, whose_turn
from .trace import plot_trace, stop_tower, to_image, trace_video

__all__ = ['TraceVisualizationHook']


@HOOKS.register_module()
class TraceVisualizationHook(Hook):
    """While testing, pass :func:`plot_trace`'s picture of every n-th video to the
    runner's visualizer, which sends it to its backends: files, TensorBoard, ...

    The pictures are named 'trace', with the video's place in the test set as the step.

    Args:
        interval: draw the videos whose place is a multiple of this, at least 1.

    Raises:
        ConfigError: ``interval`` is less than 1, or the run's backbone is not STOP.
    """

    @typed
    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ConfigError(f'interval={interval}, expected at least 1')
        self.interval = interval

    def before_test(self, runner: Runner) -> None:
        stop_tower(unwrap(runner.model))

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[Sequence[Any]] = None,
    ) -> None:
        """Draw the videos of a batch that are due."""
        if not data_batch or not outputs:
            return
        for k, index in whose_turn(runner, batch_idx, len(outputs), self.interval):
            header, _ = describe(outputs[k], class_names(runner))
            title = ', '.join([picture_name(runner, outputs[k], index), *header])
            trace = trace_video(unwrap(runner.model), _item(data_batch, k))
            picture = to_image(plot_trace(trace, title))
            runner.visualizer.add_image('trace', picture, step=index)


def _item(batch: dict, k: int) -> dict:
    """Take one video out of a batch that ``pseudo_collate`` made."""
    inputs = batch['inputs']
    return dict(
        inputs={name: values[k] for name, values in inputs.items()}
        if isinstance(inputs, dict)
        else inputs[k],
        data_samples=batch['data_samples'][k],
    )
