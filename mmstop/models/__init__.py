"""Head, neck and retriever, and MMAction2's recognizer for pure Python configs."""

from mmaction.models import Recognizer3D

from .head import CLIPTextHead
from .neck import AsTuple
from .retriever import CaptionPreprocessor, CLIPRetriever, contrastive_loss

__all__ = [
    'AsTuple',
    'CLIPRetriever',
    'CLIPTextHead',
    'CaptionPreprocessor',
    'Recognizer3D',
    'contrastive_loss',
]
