"""Methods that adapt a frozen CLIP, one file per paper."""

from .prompts import DeepPromptCLIPViT
from .stop import STOPCLIPViT, STOPTrace

__all__ = ['DeepPromptCLIPViT', 'STOPCLIPViT', 'STOPTrace']
