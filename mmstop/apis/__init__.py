"""Use a trained model on your own videos, without a dataset."""

from .export import describe_towers, export_towers
from .index import Hit, ModelID, VideoIndex
from .index_update import Update, update_index
from .publishing import publish
from .sources import list_videos
from .video_clip import Prediction, VideoCLIP

__all__ = [
    'Hit',
    'ModelID',
    'Prediction',
    'Update',
    'VideoCLIP',
    'VideoIndex',
    'describe_towers',
    'export_towers',
    'list_videos',
    'publish',
    'update_index',
]
