"""Draw tested videos with their labels, and what STOP chose in them.

MMAction2's own hook cannot draw the clips of 3D models, and its visualizer looks for
labels under names that samples do not have.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmstop.engine.hooks import unwrap
from mmstop.errors import ConfigError, typed
from mmstop.registry import HOOKS

from .drawing import NEUTRAL, RIGHT, WRONG, draw_strip
from .trace import stop_tower, trace_video

__all__ = ['TraceVisualizationHook', 'VideoVisualizationHook', 'describe']

MAX_CAPTIONS = 3  # per picture


@HOOKS.register_module()
class VideoVisualizationHook(Hook):
    """While testing, draw every n-th video: the frames that the model saw, its label
    and the prediction, green if correct and red if wrong. For retrieval, draw the video
    under its captions.

    There is one PNG per video. Its name has the video's place in the test set and, if
    known, the video's name. In a distributed run, each process draws its own videos.

    Args:
        enable: whether to draw; ``tools/test.py --show-dir`` turns it on.
        out_dir: folder for the pictures; None means ``vis`` in the run's log folder.
        interval: draw the videos whose place is a multiple of this, at least 1.
        num_frames: frames per picture, spread evenly over the clip, at least 1.

    Raises:
        ConfigError: ``interval`` or ``num_frames`` is less than 1.
    """

    @typed
    def __init__(
        self,
        enable: bool = False,
        out_dir: Optional[str] = None,
        interval: int = 1,
        num_frames: int = 8,
    ) -> None:
        for name, value in (('interval', interval), ('num_frames', num_frames)):
            if value < 1:
                raise ConfigError(f'{name}={value}, expected at least 1')
        self.enable = enable
        self.out_dir = out_dir
        self.interval = interval
        self.num_frames = num_frames

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[Sequence[Any]] = None,
    ) -> None:
        """Draw the videos of a batch that are due."""
        if not self.enable or not data_batch or not outputs:
            return
        videos = data_batch['inputs']
        if isinstance(videos, dict):  # retrieval: {'imgs': ..., 'text': ...}
            videos = videos['imgs']
        for k, index in whose_turn(runner, batch_idx, len(outputs), self.interval):
            video, sample = videos[k], outputs[k]
            header, colour = describe(sample, class_names(runner))
            header = [*header, *_captions(runner, index)] or ['no labels']
            picture = draw_strip(_frames(video, self.num_frames), header, colour)
            out_dir = Path(self.out_dir or Path(runner.log_dir, 'vis'))
            out_dir.mkdir(parents=True, exist_ok=True)
            picture.save(out_dir / f'{picture_name(runner, sample, index)}.png')


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
        from .figures import plot_trace, to_image  # not earlier, see __init__.py

        if not data_batch or not outputs:
            return
        for k, index in whose_turn(runner, batch_idx, len(outputs), self.interval):
            header, _ = describe(outputs[k], class_names(runner))
            title = ', '.join([picture_name(runner, outputs[k], index), *header])
            trace = trace_video(unwrap(runner.model), _item(data_batch, k))
            picture = to_image(plot_trace(trace, title))
            runner.visualizer.add_image('trace', picture, step=index)


def whose_turn(
    runner: Runner, batch_idx: int, batch_size: int, interval: int
) -> Iterator[tuple[int, int]]:
    """Find the videos of a test batch whose place is a multiple of ``interval``.

    Returns:
        their places in the batch and in the test set.
    """
    loader = runner.test_dataloader
    for k in range(batch_size):
        # ``DefaultSampler`` deals the test set out to the processes in turn, and starts
        # again from the beginning if it does not divide evenly.
        index = (batch_idx * loader.batch_size + k) * get_world_size() + get_rank()
        if index % interval == 0 and index < len(loader.dataset):
            yield k, index


def _frames(video: Tensor, num_frames: int) -> np.ndarray:
    """Choose frames of the first clip: (clips, 3, T, H, W) -> (frames, H, W, 3)."""
    if video.dim() != 5:
        raise ValueError(
            f'got a video of shape {tuple(video.shape)}, expected '
            f"(clips, 3, T, H, W), as FormatShape(input_format='NCTHW') makes it"
        )
    clip = video[0].movedim(0, -1).cpu().numpy()  # (T, H, W, 3)
    T = len(clip)
    chosen = np.linspace(0, T - 1, min(num_frames, T)).round().astype(int)
    return clip[chosen].clip(0, 255).astype(np.uint8)


def describe(
    sample: Any, names: Optional[Sequence[str]]
) -> tuple[list[str], tuple[int, int, int]]:
    """Write the label and prediction of a sample, and choose the colour."""
    truth = _labels(sample, 'gt_label')
    predicted = _labels(sample, 'pred_label')
    score = sample.get('pred_score')
    if score is not None and not predicted:
        predicted = [int(score.argmax())]
    header = []
    if truth and min(truth) >= 0:  # -1: a list without labels
        header.append(f'label: {_join(truth, names)}')
    else:
        truth = []
    if not predicted:
        return header, NEUTRAL
    line = f'predicted: {_join(predicted, names)}'
    if score is not None:
        line += f' {float(score[predicted[0]]):.2f}'
    if not truth:
        return [*header, line], NEUTRAL
    right = set(predicted) <= set(truth)
    return (
        [*header, f'{line} ({"correct" if right else "wrong"})'],
        RIGHT if right else WRONG,
    )


def _captions(runner: Runner, index: int) -> list[str]:
    """List a retrieval data set's captions of a video, as many as a picture holds."""
    texts = _data_info(runner, index).get('text', [])
    texts = [texts] if isinstance(texts, str) else texts
    more = (
        [f'and {len(texts) - MAX_CAPTIONS} more'] if len(texts) > MAX_CAPTIONS else []
    )
    return [*texts[:MAX_CAPTIONS], *more]


def _labels(sample: Any, field: str) -> list[int]:
    """Read one label or several, (1,) or (number of labels,)."""
    value = sample.get(field)
    return [] if value is None else [int(label) for label in value.flatten()]


def _join(labels: Sequence[int], names: Optional[Sequence[str]]) -> str:
    known = names or ()
    return ', '.join(
        known[label] if label < len(known) else f'class {label}' for label in labels
    )


def class_names(runner: Runner) -> Optional[Sequence[str]]:
    """Return the data set's class names, or else the head's sentences."""
    metainfo = getattr(runner.test_dataloader.dataset, 'metainfo', {})
    head = getattr(unwrap(runner.model), 'cls_head', None)
    return metainfo.get('classes') or getattr(head, 'sentences', None)


def picture_name(runner: Runner, sample: Any, index: int) -> str:
    """Name a picture after its place in the test set and its video's file."""
    video = _file_name(runner, sample, index)
    number = f'{index:06d}'
    return f'{Path(video).stem}_{number}' if video else number


def _file_name(runner: Runner, sample: Any, index: int) -> Optional[str]:
    keys = ('filename', 'img_path', 'frame_dir', 'video_id')
    sources = [sample.metainfo] if hasattr(sample, 'metainfo') else []
    sources.append(_data_info(runner, index))
    return next((str(s[k]) for s in sources for k in keys if s.get(k)), None)


def _data_info(runner: Runner, index: int) -> dict:
    """Return what the data set knows about its video ``index``, if available."""
    loader = runner.test_dataloader
    sampler = loader.sampler
    in_order = isinstance(sampler, DefaultSampler) and not sampler.shuffle
    if in_order and hasattr(loader.dataset, 'get_data_info'):
        return loader.dataset.get_data_info(index)
    return {}


def _item(batch: dict, k: int) -> dict:
    """Take one video out of a batch that ``pseudo_collate`` made."""
    inputs = batch['inputs']
    return dict(
        inputs={name: values[k] for name, values in inputs.items()}
        if isinstance(inputs, dict)
        else inputs[k],
        data_samples=batch['data_samples'][k],
    )
