"""Video datasets with labels or captions, their transforms, and class names."""

from .captions import AnnotationError, check_captions, load_captions, read_json
from .checked import CheckedDataset, CheckedVideoDataset
from .classes import load_classes
from .labels import load_frame_labels, load_labels
from .rawframes import CheckedRawframeDataset, CheckedRawFrameDecode
from .transforms import CaptionTokenize, MirrorCaption
from .video_files import VideoFile
from .video_text import VideoCaptionDataset
from .videos import CheckedDecordInit, VideoError

__all__ = [
    'AnnotationError',
    'CaptionTokenize',
    'CheckedDataset',
    'CheckedDecordInit',
    'CheckedRawFrameDecode',
    'CheckedRawframeDataset',
    'CheckedVideoDataset',
    'MirrorCaption',
    'VideoCaptionDataset',
    'VideoError',
    'VideoFile',
    'check_captions',
    'load_captions',
    'load_classes',
    'load_frame_labels',
    'load_labels',
    'read_json',
]
