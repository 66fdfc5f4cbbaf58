"""The videos that captions find, one row a caption."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .trace import lay_frames

__all__ = ['Found', 'Query', 'plot_rankings']

CORRECT = '#0072B2'  # blue, beside the word 'correct'
WIDTH = 3.4  # inches per video


class Found(NamedTuple):
    """A video that was found."""

    frames: np.ndarray  # (T, H, W, 3), uint8, RGB
    caption: str  # its own
    score: float
    correct: bool


class Query(NamedTuple):
    """A caption and the videos that score highest, best first."""

    caption: str
    rank: int  # of its own video, from 1
    found: Sequence[Found]


def plot_rankings(queries: Sequence[Query], num_videos: int) -> Figure:
    """Draw one row per query: the videos that it finds as film strips, best first.

    Args:
        queries: each with the same number of found videos.
        num_videos: how many videos there were to find.
    """
    columns = len(queries[0].found)
    T, height, width = queries[0].found[0].frames.shape[:3]
    figure = Figure(
        (WIDTH * columns, (WIDTH * height / (T * width) + 0.75) * len(queries)),
        layout='constrained',
    )
    rows = figure.subfigures(len(queries), 1, squeeze=False)[:, 0]
    for row, query in zip(rows, queries):
        title = f'“{query.caption}”   own video: rank {query.rank} of {num_videos}'
        row.suptitle(title, fontsize=11, x=0.01, ha='left')
        for axes, video in zip(row.subplots(1, columns, squeeze=False)[0], query.found):
            _draw(axes, video)
    return figure


def _draw(axes: Axes, video: Found) -> None:
    lay_frames(axes, video.frames, 1)
    axes.set_aspect('equal')
    mark = ' (correct)' if video.correct else ''
    axes.set_title(f'{video.score:.3f}{mark}', fontsize=9, loc='left')
    axes.set_xlabel(video.caption, fontsize=8, loc='left', wrap=True)
    colour = CORRECT if video.correct else 'none'
    axes.spines[:].set(visible=True, color=colour, linewidth=4, zorder=3)
