"""Methods that adapt a frozen CLIP, one file per paper."""

from .adapters import AdapterATTN, AdapterFFN, HoulsbyAdapter
from .aim import AIMCLIPViT
from .dgl import DGLCLIPViT
from .efficient_prompt import EfficientPromptCLIPText, EfficientPromptCLIPViT
from .mpt import MPTCLIPViT
from .discovla import DiscoVLACLIPText, DiscoVLACLIPViT
from .prompts import DeepPromptCLIPViT
from .st_adapter import STAdapter
from .stop import STOPCLIPViT, STOPTrace
from .tempme import TempMeCLIPViT
from .text_prompts import PromptedCLIPText
from .upt import UPTCLIPViT
from .vop import VoPCLIPViT
from .unipt import UniPT

__all__ = [
    'AIMCLIPViT',
    'AdapterATTN',
    'AdapterFFN',
    'DGLCLIPViT',
    'DeepPromptCLIPViT',
    'EfficientPromptCLIPText',
    'EfficientPromptCLIPViT',
    'DiscoVLACLIPText',
    'DiscoVLACLIPViT',
    'HoulsbyAdapter',
    'MPTCLIPViT',
    'PromptedCLIPText',
    'STAdapter',
    'STOPCLIPViT',
    'STOPTrace',
    'UPTCLIPViT',
    'VoPCLIPViT',
    'TempMeCLIPViT',
    'UniPT',
]
