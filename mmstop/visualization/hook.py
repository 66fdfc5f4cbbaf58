"""Draw tested videos with their labels.

MMAction2's own hook cannot draw the clips of 3D models, and its visualizer looks for
labels under names that samples do not have.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import matplotlib
import numpy as np
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmstop.engine.hooks import unwrap
from mmstop.errors import ConfigError, typed
from mmstop.registry import HOOKS

__all__ = ['VideoVisualizationHook', 'draw_strip']

FRAME_HEIGHT = 160  # pixels; smaller frames are enlarged by a whole factor
LINE_HEIGHT, FONT_SIZE, MARGIN = 28, 18, 8  # pixels
MIN_WIDTH = 480  # pixels, so that the text of a single small frame can be read
MAX_CAPTIONS = 3  # per picture
# White text is legible on each; 'correct' and 'wrong' are also written out.
RIGHT, WRONG, NEUTRAL = (0, 120, 70), (190, 30, 45), (90, 90, 90)


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


def draw_strip(
    frames: np.ndarray, header: Sequence[str], colour: tuple[int, int, int]
) -> Image.Image:
    """Lay frames side by side under a header.

    Args:
        frames: RGB, (T, H, W, 3), uint8.
        header: lines of text, cut to the width of the strip.
        colour: RGB of the header's background.
    """
    factor = max(1, round(FRAME_HEIGHT / frames.shape[1]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    strip = Image.fromarray(np.concatenate(list(frames), axis=1))
    above = write_lines(header, max(strip.width, MIN_WIDTH), colour)
    picture = Image.new('RGB', (above.width, above.height + strip.height), colour)
    picture.paste(above, (0, 0))
    picture.paste(strip, (0, above.height))
    return picture


def write_lines(
    lines: Sequence[str], width: int, colour: tuple[int, int, int]
) -> Image.Image:
    """Write white lines of text on a colour, cut to a width in pixels."""
    picture = Image.new('RGB', (width, LINE_HEIGHT * len(lines) + MARGIN), colour)
    draw = ImageDraw.Draw(picture)
    font = font_of('DejaVuSans')
    for i, line in enumerate(lines):
        line = shorten(line, font, width - 2 * MARGIN)
        draw.text((MARGIN, MARGIN // 2 + i * LINE_HEIGHT), line, 'white', font)
    return picture


def font_of(name: str) -> ImageFont.FreeTypeFont:
    """Load one of the fonts that come with Matplotlib."""
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', f'{name}.ttf')
    return ImageFont.truetype(str(path), FONT_SIZE)


def shorten(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a line in the middle, so that its score is kept."""
    if font.getlength(line) <= width:
        return line
    for kept in range(len(line) - 1, 1, -1):
        short = f'{line[: kept // 2]}…{line[len(line) - (kept - kept // 2) :]}'
        if font.getlength(short) <= width:
            return short
    return ''


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
