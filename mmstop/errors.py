"""All exceptions of the package, and checks of config values."""

import inspect
import math
import pickle
from ast import literal_eval
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

__all__ = [
    'AnnotationError',
    'CheckpointError',
    'ConfigError',
    'MissingFileError',
    'SaveError',
    'VideoError',
    'check_choice',
    'check_range',
    'short',
    'typed',
]


class ConfigError(ValueError):
    """A config, an option or a file that it names is invalid; the message says why."""


class MissingFileError(ConfigError, FileNotFoundError):
    """A config names a file that does not exist."""


class AnnotationError(ValueError):
    """An annotation file is invalid; the message names the file and the entry."""


class VideoError(RuntimeError):
    """A video cannot be used; the message says which and why."""


class CheckpointError(pickle.UnpicklingError):
    """A checkpoint is damaged, or asks for more than tensors and plain values."""


class SaveError(OSError):
    """A file could not be written; the previous one in its place is still there."""


def short(value: Any) -> str:
    """Return the ``repr`` of a value, truncated to 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else f'{text[:117]}...'


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise :class:`ConfigError` unless an option is one of the choices."""
    if value not in choices:
        raise ConfigError(f'{name}={value!r} is unknown; use one of {choices}')


def check_range(
    name: str, value: float, low: float, high: float, why: str = 'its range'
) -> None:
    """Raise :class:`ConfigError` unless an option is finite and in [low, high]."""
    if not (low <= value <= high and math.isfinite(value)):
        raise ConfigError(f'{name}={value} is outside [{low}, {high}], {why}')


def typed(init: Callable[..., None]) -> Callable[..., None]:
    """Check a constructor's arguments against its annotations.

    Otherwise a quoted number, for example, passes the config and fails far from it, or
    is silently accepted.

    Raises:
        ConfigError: raised by the constructor; it names the argument.
    """
    signature = inspect.signature(init)

    @wraps(init)
    def checked(*args: Any, **kwargs: Any) -> None:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            kind = signature.parameters[name].annotation
            if kind is not inspect.Parameter.empty and not _is(value, kind):
                raise ConfigError(_complain(name, value, kind))
        init(*args, **kwargs)

    return checked


NUMBERS = {int: Integral, float: Real}  # an int passes as a float, a bool does not


def _is(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Union:
        return any(_is(value, one) for one in inside)
    if origin is Sequence:
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(_is(item, inside[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _is(part, of) for item in value.items() for part, of in zip(item, inside)
        )
    if kind in NUMBERS:
        return isinstance(value, NUMBERS[kind]) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _complain(name: str, value: Any, kind: Any) -> str:
    meant = value
    if isinstance(value, str):
        with suppress(SyntaxError, ValueError):
            meant = literal_eval(value)
    if isinstance(meant, float) and meant.is_integer():
        meant = int(meant)
    expected = inspect.formatannotation(kind).replace('collections.abc.', '')
    return (
        f'{name}={value!r} is of type {type(value).__name__}, expected {expected}'
        f'{f"; set {name}={meant!r}" if _is(meant, kind) else ""}'
    )
