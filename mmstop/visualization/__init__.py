"""Pictures of what a model saw, chose and said."""

from .hook import VideoVisualizationHook
from .trace import plot_trace

__all__ = ['VideoVisualizationHook', 'plot_trace']
