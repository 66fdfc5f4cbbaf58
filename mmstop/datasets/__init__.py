"""Video datasets with labels or captions, their transforms, and class names."""

from mmstop.classes import load_classes
from mmstop.errors import AnnotationError, VideoError
from mmstop.text import read_json

from .annotations import (
    check_captions,
    load_captions,
    load_frame_labels,
    load_labels,
)
from .loading import CheckedDecordInit
from .rawframes import CheckedRawframeDataset, CheckedRawFrameDecode
from .transforms import CaptionTokenize, MirrorCaption
from .video_datasets import CheckedDataset, CheckedVideoDataset, VideoCaptionDataset
from .video_files import VideoFile

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
