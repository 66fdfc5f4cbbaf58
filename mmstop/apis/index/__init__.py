"""An index: the embeddings of many videos in a folder, and the search through them."""

from .creation import ModelID, Source
from .video_index import EXACT, Hit, VideoIndex

__all__ = ['EXACT', 'Hit', 'ModelID', 'Source', 'VideoIndex']
