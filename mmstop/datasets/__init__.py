"""Class names in label order."""

from .classes import load_classes

__all__ = ['load_classes']
