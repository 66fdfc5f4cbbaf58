"""What STOP attended to and prompted in a video: the paper's figures 3, 5, 6 and 7."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmstop.errors import ConfigError
from mmstop.methods import STOPCLIPViT

from .attention import cls_attention_map, innermost
from .overlay import COLOUR_MAP, heat_map, outline_patches

__all__ = [
    'VideoTrace',
    'plot_blocks',
    'plot_trace',
    'to_image',
    'trace_blocks',
    'trace_video',
]

COUNT, VARIATION = '#0072B2', '#D55E00'  # blue and vermilion, colour-blind safe
DPI = 100
LEFT, RIGHT, TOP, BOTTOM = 0.7, 0.9, 0.3, 0.4  # inches around all rows
GAP, BARS = 0.35, 1.3  # inches, between the rows and of the last one
CELL = 0.25  # inches, the height of a block in the table of counts
MIN_STRIP, MAX_STRIP = 6.0, 60.0  # inches
HEADROOM = 1.3  # of the bars' axes over their largest value


@dataclass
class VideoTrace:
    """What a STOP model saw in one video of T frames, and chose for one block.

    Attributes:
        frames: as the model saw them, (T, H, W, 3), uint8, RGB.
        region: r of Eq. 6, the prompted patches, (T, rows, columns), bool.
        saliency: W^s of Eq. 5, (T, rows, columns).
        clip_attention: attention of the last CLS of the frozen CLIP inside, (T, rows,
            columns), as :func:`cls_attention_map` scales it.
        attention: the same for STOP.
        variation: W^t of Eq. 10, (T - 1,), in [0, 1].
        num_prompts: N^t of Eq. 11, (T - 1,), int64.
        block: the block at whose input region, saliency, variation and prompts were
            chosen.
    """

    frames: np.ndarray
    region: np.ndarray
    saliency: np.ndarray
    clip_attention: np.ndarray
    attention: np.ndarray
    variation: np.ndarray
    num_prompts: np.ndarray
    block: int = 0


def trace_video(model: nn.Module, item: dict, block: int = 0) -> VideoTrace:
    """Run a model on the first clip of a video and return what it saw and chose.

    Args:
        model: a recognizer or retriever in evaluation mode.
        item: the test pipeline's output: ``data_samples`` and ``inputs``, (clips, 3,
            T, H, W), uint8; for retrieval, a dict that has these as ``imgs``.
        block: the block at whose input prompts were chosen, from 0.

    Raises:
        ValueError: the backbone is not STOP, its tower merges patches, or it makes no
            prompts for that block.
    """
    return trace_blocks(model, item, [block])[0]


@torch.no_grad()
def trace_blocks(
    model: nn.Module, item: dict, blocks: Sequence[int]
) -> list[VideoTrace]:
    """Do the same as :func:`trace_video` for several blocks in one run."""
    tower = stop_tower(model)
    if missing := {*blocks} - {*range(tower.prompted_blocks)}:
        raise ConfigError(
            f'block {min(missing)} has no prompts of its own; this model makes them '
            f'for blocks 0 to {tower.prompted_blocks - 1}'
        )
    inputs, sample = item['inputs'], item['data_samples']
    batch = (
        {name: [value] for name, value in inputs.items()}
        if isinstance(inputs, dict)
        else [inputs]
    )
    preprocess: Any = model.data_preprocessor
    data = preprocess(dict(inputs=batch, data_samples=[sample]), False)
    video = _imgs(data['inputs'])[:, 0]
    traces = tower.traces(video)

    def on_grid(patches: Tensor) -> np.ndarray:
        return patches[0].reshape(-1, *tower.grid).cpu().numpy()

    frames = _imgs(inputs)[0].movedim(0, -1).cpu().numpy().astype(np.uint8)
    clip_attention = on_grid(cls_attention_map(innermost(tower), video))
    attention = on_grid(cls_attention_map(tower, video))
    return [
        VideoTrace(
            frames=frames,
            region=on_grid(traces[block].region),
            saliency=on_grid(traces[block].saliency),
            clip_attention=clip_attention,
            attention=attention,
            variation=traces[block].variation[0].cpu().numpy(),
            num_prompts=traces[block].num_prompts[0].cpu().numpy(),
            block=block,
        )
        for block in blocks
    ]


def stop_tower(model: nn.Module) -> STOPCLIPViT:
    """Return the backbone of a model, if it is STOP.

    Raises:
        ConfigError: it is not.
    """
    tower = getattr(model, 'backbone', None)
    if not isinstance(tower, STOPCLIPViT):
        raise ConfigError(
            f'the backbone of this {type(model).__name__} is a {type(tower).__name__}, '
            f'which chooses no prompts to draw; take a model with STOPCLIPViT'
        )
    return tower


def plot_trace(trace: VideoTrace, title: str = '') -> Figure:
    """Draw what was seen and chosen as film strips, pixel for pixel if they fit.

    From top to bottom: the frames with the prompted patches outlined (Eq. 6); their
    saliency W^s (Eq. 5); the attention of the last CLS of frozen CLIP and of STOP, on
    one scale; between the frames, the number of prompts N^t (Eq. 11) as bars and the
    variation W^t (Eq. 10) as a curve.

    Args:
        title: written above.
    """
    figure, bottom = _draw_page(strips_of(trace), BARS, title)
    _draw_gaps(bottom, trace)
    return figure


def plot_blocks(traces: Sequence[VideoTrace], title: str = '') -> Figure:
    """Draw what was chosen for several blocks, one below the other.

    From top to bottom: for each block, the saliency W^s (Eq. 5) with the prompted
    patches outlined (Eq. 6); between the frames, a table of each block's number of
    prompts N^t (Eq. 11).

    Args:
        traces: of one video, see :func:`trace_blocks`; at least one.
        title: written above.
    """
    strips = [
        heat._replace(
            label=f'Block {trace.block}: {heat.label}, prompted patches r outlined',
            frames=outline_patches(heat.frames, trace.region),
        )
        for trace in traces
        for heat in [strips_of(trace)[1]]
    ]
    figure, bottom = _draw_page(strips, CELL * len(traces), title)
    _draw_counts(bottom, traces)
    return figure


def to_image(figure: Figure) -> np.ndarray:
    """Render a figure: (height, width, 3), uint8, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class _Strip(NamedTuple):
    label: str
    frames: np.ndarray  # (T, H, W, 3), uint8, RGB
    most: Optional[float] = None  # the value of the last colour of its map


def strips_of(trace: VideoTrace) -> list[_Strip]:
    """Draw marks and maps on the frames: r, W^s, attention of CLIP and of STOP."""

    def heat(label: str, values: np.ndarray, most: float) -> _Strip:
        return _Strip(label, heat_map(trace.frames, values, most), most)

    outlined = outline_patches(trace.frames, trace.region)
    clip, stop = trace.clip_attention, trace.attention
    most = float(max(clip.max(), stop.max()))
    looks = 'attention of the last CLS, 1 = the mean of all patches that it sees'
    return [
        _Strip('Prompted patches r (Eq. 6)', outlined),
        # Without spatial prompts W^s is 0 everywhere.
        heat('Saliency $W^s$ (Eq. 5)', trace.saliency, trace.saliency.max() or 1.0),
        heat(f'CLIP: {looks}', clip, most),
        heat(f'STOP: {looks}', stop, most),
    ]


def _draw_page(
    strips: Sequence[_Strip], last: float, title: str
) -> tuple[Figure, Axes]:
    """Draw strips of equal size; return the page and axes below, ``last`` inches high.

    One pixel of the strips is one pixel of the page if they fit.
    """
    T, height, width = strips[0].frames.shape[:3]
    wide = min(T * width / DPI, MAX_STRIP)
    high = wide * height / (T * width)
    page = (
        LEFT + max(wide, MIN_STRIP) + RIGHT,
        TOP + len(strips) * (high + GAP) + GAP + last + BOTTOM,
    )
    figure = Figure(page, dpi=DPI)
    figure.text(LEFT / page[0], 1 - 0.1 / page[1], title, va='top', weight='bold')

    def add_axes(left: float, top: float, wide: float, high: float) -> Axes:
        box = (left / page[0], 1 - (top + high) / page[1])
        return figure.add_axes((*box, wide / page[0], high / page[1]))

    top = TOP + GAP
    for strip in strips:
        axes = add_axes(LEFT, top, wide, high)
        _draw_strip(axes, strip)
        if strip.most is not None:
            scale = ScalarMappable(Normalize(0, strip.most), COLOUR_MAP)
            figure.colorbar(scale, cax=add_axes(LEFT + wide + 0.15, top, 0.12, high))
        top += high + GAP
    return figure, add_axes(LEFT, top, wide, last)


def _draw_strip(axes: Axes, strip: _Strip) -> None:
    T, _, width = strip.frames.shape[:3]
    axes.imshow(np.concatenate(list(strip.frames), axis=1), aspect='auto')
    for t in range(1, T):
        axes.axvline(t * width - 0.5, color='white', lw=72 / DPI)  # a pixel
    axes.set_axis_off()
    axes.set_title(strip.label, fontsize=10, loc='left')


def _draw_gaps(axes: Axes, trace: VideoTrace) -> None:
    """Draw N^t and W^t at the gaps of the strips above, whose frames are 1 wide."""
    T = len(trace.frames)
    gaps = np.arange(1, T)
    bars = axes.bar(gaps, trace.num_prompts, width=0.4, color=COUNT)
    axes.bar_label(bars, fontsize=9, padding=6)
    axes.set_title(
        'Between frames: prompts $N^t$ (Eq. 11, bars), variation $W^t$ (Eq. 10, curve)',
        fontsize=10,
        loc='left',
    )
    _name_frames(axes, T)
    axes.set_ylim(0, HEADROOM * max([*trace.num_prompts, 1]))
    axes.set_ylabel('$N^t$', color=COUNT)
    curve = axes.twinx()
    curve.plot(gaps, trace.variation, color=VARIATION, marker='o', mec='white')
    curve.set_ylim(0, HEADROOM)  # the largest N^t is level with W^t = 1
    curve.set_ylabel('$W^t$', color=VARIATION)
    for side in (axes, curve):
        side.spines['top'].set_visible(False)


def _draw_counts(axes: Axes, traces: Sequence[VideoTrace]) -> None:
    """Write N^t of each block at the gaps of the strips above."""
    counts = np.stack([trace.num_prompts for trace in traces])  # (blocks, T - 1)
    T = len(traces[0].frames)
    most = max(counts.max(initial=0), 1)
    for (row, gap), count in np.ndenumerate(counts):
        axes.barh(row, 1, 1, gap + 0.5, color=COUNT, alpha=count / most)
        axes.text(gap + 1, row, str(count), ha='center', va='center', fontsize=9)
    axes.set_title('Between frames: prompts $N^t$ (Eq. 11)', fontsize=10, loc='left')
    axes.set(ylim=(len(traces) - 0.5, -0.5), yticks=np.arange(len(traces)))
    axes.set_yticklabels([f'block {trace.block}' for trace in traces], fontsize=9)
    axes.tick_params(axis='y', length=0)
    _name_frames(axes, T)
    axes.spines[:].set_visible(False)


def _name_frames(axes: Axes, T: int) -> None:
    axes.set(xlim=(0, T), xticks=np.arange(T) + 0.5)
    axes.set_xticklabels([f'frame {t + 1}' for t in range(T)], fontsize=9)
    axes.tick_params(axis='x', length=0)


def _imgs(inputs: Any) -> Tensor:
    return inputs['imgs'] if isinstance(inputs, dict) else inputs
