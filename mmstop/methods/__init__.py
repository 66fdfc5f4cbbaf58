"""Methods that adapt a frozen CLIP, one file per paper."""

from .prompts import DeepPromptCLIPViT
from .stop import STOPCLIPViT, STOPTrace
from .text_prompts import PromptedCLIPText

__all__ = ['DeepPromptCLIPViT', 'PromptedCLIPText', 'STOPCLIPViT', 'STOPTrace']
