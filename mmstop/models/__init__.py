"""Heads, a neck, the retriever; MMAction2's recognizer for configs in Python."""

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
