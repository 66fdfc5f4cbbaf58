"""Figures of one video, as film strips: what STOP saw, attended to and prompted.

Lengths are in inches, of which :data:`DPI` pixels make one.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..drawing import COLOUR_MAP, outline_patches
from ..trace import Strip, VideoTrace, strips_of

__all__ = ['plot_blocks', 'plot_trace', 'to_image']

COUNT, VARIATION = '#0072B2', '#D55E00'  # blue and vermilion, colour-blind safe
DPI = 100
LEFT, RIGHT, TOP, BOTTOM = 0.7, 0.9, 0.3, 0.4  # inches around all rows
GAP, BARS = 0.35, 1.3  # inches, between the rows and of the last one
CELL = 0.25  # inches, the height of a block in the table of counts
MIN_STRIP, MAX_STRIP = 6.0, 60.0  # inches
HEADROOM = 1.3  # of the bars' axes over their largest value


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


def axes_at(figure: Figure, left: float, top: float, wide: float, high: float) -> Axes:
    """Add axes in a box, given in inches from the upper left corner of the figure."""
    width, height = figure.get_size_inches()
    box = (left / width, 1 - (top + high) / height, wide / width, high / height)
    return figure.add_axes(box)


def lay_frames(axes: Axes, frames: np.ndarray, line: float) -> None:
    """Lay frames (T, H, W, 3) side by side, with white lines between them."""
    axes.imshow(np.concatenate(list(frames), axis=1), aspect='auto')
    for t in range(1, len(frames)):
        axes.axvline(t * frames.shape[2] - 0.5, color='white', lw=line)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_page(strips: Sequence[Strip], last: float, title: str) -> tuple[Figure, Axes]:
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

    top = TOP + GAP
    for strip in strips:
        axes = axes_at(figure, LEFT, top, wide, high)
        _draw_strip(axes, strip)
        if strip.most is not None:
            scale = ScalarMappable(Normalize(0, strip.most), COLOUR_MAP)
            figure.colorbar(
                scale, cax=axes_at(figure, LEFT + wide + 0.15, top, 0.12, high)
            )
        top += high + GAP
    return figure, axes_at(figure, LEFT, top, wide, last)


def _draw_strip(axes: Axes, strip: Strip) -> None:
    lay_frames(axes, strip.frames, 72 / DPI)  # a pixel
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
