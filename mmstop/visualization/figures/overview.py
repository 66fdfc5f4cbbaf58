"""Several videos on one screen: what was predicted, prompted and attended to."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ..drawing import (
    CHOSEN,
    COLOUR_MAP,
    FONT_SIZE,
    NEUTRAL,
    RIGHT,
    WRONG,
    font_of,
    heat_map,
    shorten,
)
from ..trace import TracedVideo
from .trace import COUNT, DPI, axes_at, lay_frames

__all__ = ['plot_overview']

WIDTH, HEIGHT = 16.0, 9.0  # inches, of the whole screen, which may be less high
MARGIN, HEADER = 0.25, 0.6  # inches, around and between the videos; of the headline
BAND, ROW_LABEL = 0.32, 0.28  # inches: the prediction's height, the row labels' width
BARS = 0.6  # height of the bars, in strips of frames
TICKS, GAP = 0.22, 0.06  # inches: the frames' numbers, between strips
POINTS = 72 * FONT_SIZE / DPI  # of the text in a band
GUESS, LABEL = 0.5, 0.46  # shares of a band, if both are in it
MAX_FRAMES = 8  # per video; a longer clip shows this many, spread evenly
ORANGE = '#{:02x}{:02x}{:02x}'.format(*CHOSEN)


def plot_overview(videos: Sequence[TracedVideo], title: str) -> Figure:
    """Draw videos on one screen of at most 1600 x 900 pixels.

    Each video has a band that shows the prediction, green if correct and red if wrong.
    Below it, from top to bottom, are the frames with the prompted patches outlined
    (Eq. 6), the attention of STOP's last CLS, and the number of prompts N^t (Eq. 11)
    between frames as bars.

    Args:
        videos: at least one, with frames of one size.
        title: of the screen.
    """
    columns = ceil(sqrt(len(videos)))
    rows = ceil(len(videos) / columns)
    wide = (WIDTH - MARGIN * (columns + 1)) / columns
    T, height, width = videos[0].trace.frames.shape[:3]
    strip = (wide - ROW_LABEL) * height / (min(T, MAX_FRAMES) * width)
    high = min(
        BAND + (2 + BARS) * strip + 3 * GAP + TICKS,
        (HEIGHT - HEADER) / rows - MARGIN,
    )
    figure = Figure((WIDTH, HEADER + rows * (high + MARGIN)), dpi=DPI)
    _draw_header(figure, title)
    for i, video in enumerate(videos):
        row, column = divmod(i, columns)
        left = MARGIN + column * (wide + MARGIN)
        top = HEADER + row * (high + MARGIN)
        _draw_video(figure, video, left, top, wide, high)
    return figure


def _draw_header(figure: Figure, title: str) -> None:
    y = 1 - HEADER / 2 / figure.get_figheight()
    figure.text(MARGIN / WIDTH, y, title, va='center', fontsize=17, weight='bold')
    figure.legend(
        handles=[
            Patch(facecolor='none', edgecolor=ORANGE, lw=2.5, label='prompted patch'),
            Patch(color=colormaps[COLOUR_MAP](1.0), label='where STOP looks most'),
            Patch(color=COUNT, label='prompts between two frames'),
        ],
        loc='center right',
        bbox_to_anchor=(1 - MARGIN / WIDTH, y),
        ncols=3,
        fontsize=13,
        frameon=False,
        borderaxespad=0,
    )


def _draw_video(
    figure: Figure,
    video: TracedVideo,
    left: float,
    top: float,
    wide: float,
    high: float,
) -> None:
    """Draw one video into a box, in inches from the upper left corner."""

    _draw_band(axes_at(figure, left, top, wide, BAND), video)
    trace = video.trace
    T, height, width = trace.frames.shape[:3]
    chosen = np.linspace(0, T - 1, min(T, MAX_FRAMES)).round().astype(int)
    aspect = len(chosen) * width / height
    strip = min(
        (wide - ROW_LABEL) / aspect, (high - BAND - TICKS - 3 * GAP) / (2 + BARS)
    )
    left, wide, top = left + ROW_LABEL, strip * aspect, top + BAND + GAP
    axes = axes_at(figure, left, top, wide, strip)
    _draw_frames(axes, trace.frames[chosen], 'prompted')
    _outline(axes, trace.region[chosen], width, height)
    axes = axes_at(figure, left, top + strip + GAP, wide, strip)
    heat = heat_map(trace.frames, trace.attention, float(trace.attention.max()))
    _draw_frames(axes, heat[chosen], 'attention')
    axes = axes_at(figure, left, top + 2 * (strip + GAP), wide, BARS * strip)
    _draw_counts(axes, trace.num_prompts, chosen)


def _draw_band(axes: Axes, video: TracedVideo) -> None:
    guess, label = f'{video.guess}  {video.score:.0%}', ''
    colour, share = NEUTRAL, GUESS + LABEL
    if video.truth == video.guess:
        guess, colour = f'\N{CHECK MARK} {guess}', RIGHT
    elif video.truth is not None:
        guess, colour, share = f'\N{BALLOT X} {guess}', WRONG, GUESS
        label = f'label: {video.truth}'
    axes.set_facecolor('#{:02x}{:02x}{:02x}'.format(*colour))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    wide = axes.get_position().width * WIDTH * DPI
    guess = shorten(guess, font_of('DejaVuSans-Bold'), share * wide)
    label = shorten(label, font_of('DejaVuSans'), LABEL * wide)
    style: Any = dict(
        transform=axes.transAxes,
        va='center',
        color='white',
        fontsize=POINTS,
        parse_math=False,
    )
    axes.text(0.012, 0.46, guess, weight='bold', **style)
    axes.text(0.988, 0.46, label, ha='right', **style)


def _draw_frames(axes: Axes, frames: np.ndarray, label: str) -> None:
    lay_frames(axes, frames, 1.5)
    axes.set_ylabel(label, fontsize=10)


def _outline(axes: Axes, region: np.ndarray, width: int, height: int) -> None:
    """Outline patches, (T, rows, columns), of frames that lie side by side."""
    T, rows, columns = region.shape
    wide, high = width / columns, height / rows
    squares = [
        Rectangle((t * width + column * wide - 0.5, row * high - 0.5), wide, high)
        for t, row, column in np.argwhere(region)
    ]
    for colour, line in (('black', 3.2), (ORANGE, 1.8)):
        axes.add_collection(
            PatchCollection(squares, facecolor='none', edgecolor=colour, lw=line)
        )
    axes.set(xlim=(-0.5, T * width - 0.5), ylim=(height - 0.5, -0.5))


def _draw_counts(axes: Axes, num_prompts: np.ndarray, chosen: np.ndarray) -> None:
    """Draw N^t, (T - 1,), below the gaps of the frames that were chosen."""
    T = len(num_prompts) + 1
    bars = axes.bar(np.arange(1, T), num_prompts, width=0.35, color=COUNT)
    if T <= MAX_FRAMES:
        axes.bar_label(bars, fontsize=10, padding=1)
    # If frames are left out, those that are drawn are labelled with their own numbers.
    places = (np.arange(len(chosen)) + 0.5) * T / len(chosen)
    axes.set(xlim=(0, T), ylim=(0, 1.4 * max([*num_prompts, 1])), yticks=[])
    axes.set_xticks(places, [f'frame {t + 1}' for t in chosen], fontsize=10)
    axes.tick_params(axis='x', length=0, pad=2)
    axes.set_ylabel('prompts', fontsize=10)
    axes.spines[['left', 'top', 'right']].set_visible(False)
