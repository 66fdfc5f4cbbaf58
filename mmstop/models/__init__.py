"""Recognizer, retriever, head and neck; MMAction2's recognizer for Python configs."""

from mmaction.models import Recognizer3D

from .head import CLIPTextHead, average_templates
from .losses import contrastive_loss
from .neck import AsTuple
from .recognizer import CLIPRecognizer
from .retriever import CaptionPreprocessor, CLIPRetriever

__all__ = [
    'AsTuple',
    'CLIPRecognizer',
    'CLIPRetriever',
    'CLIPTextHead',
    'CaptionPreprocessor',
    'Recognizer3D',
    'average_templates',
    'contrastive_loss',
]
