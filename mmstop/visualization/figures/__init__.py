"""Matplotlib's figures, imported when they are used."""

from .overview import plot_overview
from .rankings import Found, Query, plot_rankings
from .trace import plot_blocks, plot_trace, to_image

__all__ = [
    'Found',
    'Query',
    'plot_blocks',
    'plot_overview',
    'plot_rankings',
    'plot_trace',
    'to_image',
]
