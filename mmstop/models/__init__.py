"""Heads, and MMAction2's recognizer for configs written in Python."""

from mmaction.models import Recognizer3D

from .head import CLIPTextHead

__all__ = ['CLIPTextHead', 'Recognizer3D']
