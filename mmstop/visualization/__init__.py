"""Pictures: tested videos with labels, what STOP chose, what a caption finds."""

from .hook import VideoVisualizationHook
from .ranking import Found, Query, plot_rankings
from .trace import plot_trace

__all__ = ['Found', 'Query', 'VideoVisualizationHook', 'plot_rankings', 'plot_trace']
