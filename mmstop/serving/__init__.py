"""A page in the browser on which a model is asked about videos."""

from .browser import playable
from .desk import Desk
from .server import serve

__all__ = ['Desk', 'playable', 'serve']
