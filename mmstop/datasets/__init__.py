"""Videos with captions, their transforms, and class names in label order."""

from .captions import AnnotationError, check_captions, load_captions, read_json
from .classes import load_classes
from .transforms import CaptionTokenize, MirrorCaption
from .video_text import VideoCaptionDataset

__all__ = [
    'AnnotationError',
    'CaptionTokenize',
    'MirrorCaption',
    'VideoCaptionDataset',
    'check_captions',
    'load_captions',
    'load_classes',
    'read_json',
]
