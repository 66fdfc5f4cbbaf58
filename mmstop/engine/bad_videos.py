"""Count the videos that a training run could not use."""

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmstop.errors import ConfigError, VideoError, typed
from mmstop.registry import HOOKS

__all__ = ['BadVideoHook']


@HOOKS.register_module()
class BadVideoHook(Hook):
    """List the videos that data sets with ``on_error='skip'`` lost; stop at too many.

    The lost videos travel with the samples, so the number of data workers and how they
    were started do not matter. The list from all processes is logged at the end of
    every epoch. Each process stops as soon as its own losses exceed the allowed share.

    Args:
        max_bad: the share of an epoch's items that may be lost, in [0, 1].

    Raises:
        ConfigError: ``max_bad`` is out of range.
        VideoError: during training, if more videos are lost.
    """

    @typed
    def __init__(self, max_bad: float = 0.01) -> None:
        if not 0 <= max_bad <= 1:
            raise ConfigError(f'max_bad={max_bad}, expected a share from 0 to 1')
        self.max_bad = max_bad

    def before_train_epoch(self, runner: Runner) -> None:
        self.lost: list[str] = []
        self.seen = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict
    ) -> None:
        """Collect the lost videos of a batch; a simulated batch has no samples."""
        samples = data_batch['data_samples'] if isinstance(data_batch, dict) else []
        for sample in samples:
            self.seen += 1
            self.lost += sample.get('lost_videos', [])
        epoch = len(runner.train_dataloader.dataset) / get_world_size()
        items = max(self.seen, epoch)  # iteration-based loops see several epochs
        if len(self.lost) > self.max_bad * items:
            raise VideoError(
                f'{len(self.lost)} videos cannot be used, more than max_bad='
                f'{self.max_bad} of the {items:.0f} items; '
                f'tools/analysis/check_videos.py finds all such videos:\n'
                + '\n'.join(self.lost)
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the lost videos of all processes."""
        lost = [text for texts in all_gather_object(self.lost) for text in texts]
        if lost:
            # The epoch number makes the message unique: the logger drops repeated ones.
            runner.logger.warning(
                f'{len(lost)} videos of epoch {runner.epoch + 1} could not be used and '
                f'were replaced by the next ones:\n' + '\n'.join(lost)
            )
