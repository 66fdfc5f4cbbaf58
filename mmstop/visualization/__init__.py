"""Pictures: tested videos with labels, what STOP chose, what a caption finds.

``import mmstop`` registers the hooks. Matplotlib, which takes a second to import, is
not needed for that, so its figures are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .attention import cls_attention_map
from .film import check_encoder, write_trace_video
from .hooks import TraceVisualizationHook, VideoVisualizationHook
from .trace import (
    TracedVideo,
    VideoTrace,
    trace_blocks,
    trace_dataset,
    trace_prediction,
    trace_video,
)

if TYPE_CHECKING:
    from .figures import (
        Found,
        Query,
        plot_blocks,
        plot_overview,
        plot_rankings,
        plot_trace,
        to_image,
    )

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module('.figures', __name__), name)
