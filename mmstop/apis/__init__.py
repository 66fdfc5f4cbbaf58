"""Use a trained model on your own videos, without a dataset."""

from .embedding import Update, update_index
from .export import describe_towers, export_towers
from .index import Hit, ModelID, VideoIndex
from .reading import list_videos
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
    'update_index',
]
