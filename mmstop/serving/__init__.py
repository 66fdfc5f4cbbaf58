"""A web page for searching and classifying videos with a model."""

from .browser import playable
from .desk import Desk
from .server import serve

__all__ = ['Desk', 'playable', 'serve']
