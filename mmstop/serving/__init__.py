"""A web page for searching and classifying videos with a model."""

from .backend import Desk
from .browser import playable
from .server import serve

__all__ = ['Desk', 'playable', 'serve']
