"""Functions and methods of other packages that :func:`mmstop.compat.apply` replaces."""

import functools
from collections.abc import Callable
from typing import Any

__all__ = ['apply', 'patches']

PATCHES: list[tuple[Any, str, Callable]] = []


def patches(name: str, *owners: Any) -> Callable[[Callable], Callable]:
    """Mark ``patch(original, ...)`` as what replaces a function of modules or a class.

    Nothing is replaced before :func:`apply` is called.
    """

    def mark(patch: Callable) -> Callable:
        PATCHES.extend((owner, name, patch) for owner in owners)
        return patch

    return mark


def apply() -> None:
    """Replace all functions that have a patch."""
    for owner, name, patch in PATCHES:
        setattr(owner, name, _replace(getattr(owner, name), patch))


def _replace(original: Callable, patch: Callable) -> Callable:
    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        return patch(original, *args, **kwargs)

    return patched
