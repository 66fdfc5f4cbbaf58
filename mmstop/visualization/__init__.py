"""Pictures: tested videos with labels, what STOP chose, what a caption finds."""

from .attention import cls_attention_map
from .film import check_encoder, write_trace_video
from .hook import VideoVisualizationHook
from .overview import TracedVideo, plot_overview, trace_dataset, trace_prediction
from .ranking import Found, Query, plot_rankings
from .trace import (
    VideoTrace,
    plot_blocks,
    plot_trace,
    to_image,
    trace_blocks,
    trace_video,
)
from .trace_hook import TraceVisualizationHook

__all__ = [
    'Found',
    'Query',
    'TraceVisualizationHook',
    'TracedVideo',
    'VideoTrace',
    'VideoVisualizationHook',
    'check_encoder',
    'cls_attention_map',
    'plot_blocks',
    'plot_overview',
    'plot_rankings',
    'plot_trace',
    'to_image',
    'trace_blocks',
    'trace_dataset',
    'trace_prediction',
    'trace_video',
    'write_trace_video',
]
