"""Methods that adapt a frozen CLIP, one file per paper."""

from .stop import STOPCLIPViT, STOPTrace

__all__ = ['STOPCLIPViT', 'STOPTrace']
