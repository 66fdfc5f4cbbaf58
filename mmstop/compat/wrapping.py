"""Replace a function or method with a patched version."""

import functools
from collections.abc import Callable
from inspect import ismethod
from typing import Any

__all__ = ['wrap']


def wrap(owner: Any, name: str, patch: Callable) -> None:
    """Replace a function or class method with ``patch(original, ...)``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        return patch(original, *args, **kwargs)

    setattr(owner, name, staticmethod(patched) if ismethod(original) else patched)
