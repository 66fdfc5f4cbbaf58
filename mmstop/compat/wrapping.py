"""How a mend takes the place of a function or a method."""

import functools
from collections.abc import Callable
from inspect import ismethod
from typing import Any

__all__ = ['wrap']


def wrap(owner: Any, name: str, mend: Callable) -> None:
    """Put ``mend(original, ...)`` in the place of a function or class method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def mended(*args: Any, **kwargs: Any) -> Any:
        return mend(original, *args, **kwargs)

    setattr(owner, name, staticmethod(mended) if ismethod(original) else mended)
