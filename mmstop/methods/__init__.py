"""Methods that adapt a frozen CLIP, one file per paper."""

from .adapters import AdapterATTN, AdapterFFN, HoulsbyAdapter
from .aim import AIMCLIPViT
from .prompts import DeepPromptCLIPViT
from .st_adapter import STAdapter
from .stop import STOPCLIPViT, STOPTrace
from .text_prompts import PromptedCLIPText

__all__ = [
    'AIMCLIPViT',
    'AdapterATTN',
    'AdapterFFN',
    'DeepPromptCLIPViT',
    'HoulsbyAdapter',
    'PromptedCLIPText',
    'STAdapter',
    'STOPCLIPViT',
    'STOPTrace',
]
