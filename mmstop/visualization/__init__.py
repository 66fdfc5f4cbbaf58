"""Pictures: tested videos with labels, what STOP chose, what a caption finds."""

from .attention import cls_attention_map
from .hook import VideoVisualizationHook
from .ranking import Found, Query, plot_rankings
from .trace import (
    VideoTrace,
    plot_blocks,
    plot_trace,
    to_image,
    trace_blocks,
    trace_video,
    write_trace_video,
)
from .trace_hook import TraceVisualizationHook

__all__ = [
    'Found',
    'Query',
    'TraceVisualizationHook',
    'VideoTrace',
    'VideoVisualizationHook',
    'cls_attention_map',
    'plot_blocks',
    'plot_rankings',
    'plot_trace',
    'to_image',
    'trace_blocks',
    'trace_video',
    'write_trace_video',
]
