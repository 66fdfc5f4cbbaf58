"""Methods that adapt a frozen CLIP, one file per paper."""

from .adapters import AdapterATTN, AdapterFFN, HoulsbyAdapter
from .aim import AIMCLIPViT
from .dgl import DGLCLIPViT
from .discovla import DiscoVLACLIPText, DiscoVLACLIPViT
from .efficient_prompt import EfficientPromptCLIPText, EfficientPromptCLIPViT
from .mpt import MPTCLIPViT
from .prompts import DeepPromptCLIPViT
from .st_adapter import STAdapter
from .stop import STOPCLIPViT, STOPTrace
from .tempme import TempMeCLIPViT
from .text_prompts import PromptedCLIPText
from .unipt import UniPT
from .upt import UPTCLIPViT
from .vop import VoPCLIPViT

__all__ = [
    'AIMCLIPViT',
    'AdapterATTN',
    'AdapterFFN',
    'DGLCLIPViT',
    'DeepPromptCLIPViT',
    'DiscoVLACLIPText',
    'DiscoVLACLIPViT',
    'EfficientPromptCLIPText',
    'EfficientPromptCLIPViT',
    'HoulsbyAdapter',
    'MPTCLIPViT',
    'PromptedCLIPText',
    'STAdapter',
    'STOPCLIPViT',
    'STOPTrace',
    'TempMeCLIPViT',
    'UPTCLIPViT',
    'UniPT',
    'VoPCLIPViT',
]
