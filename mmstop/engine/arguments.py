"""Find out which keyword arguments a class accepts, without building it."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Optional

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

__all__ = ['accepted_arguments']

# For a class that stores its ``**kwargs``: the function that it later passes them to.
DESTINATIONS = {CheckpointHook: Runner.save_checkpoint}


def accepted_arguments(target: Callable) -> Optional[set[str]]:
    """Return the argument names of a class or function; None if it accepts any.

    If a class only passes ``**kwargs`` to ``super().__init__``, they are the arguments
    of the next class in the MRO. Any other use of them counts as accepting any name.
    """
    if not inspect.isclass(target):
        names, rest = _parameters(target)
        return None if rest else names
    accepted: set[str] = set()
    given: set[str] = set()  # set by a subclass itself, so callers may not set it
    for cls in target.__mro__:
        init = vars(cls).get('__init__')
        if cls is object or not inspect.isroutine(init):
            continue
        try:
            names, rest = _parameters(init)
        except ValueError:  # written in C without a signature
            return None
        accepted |= names - given
        if rest is None or cls.__module__.startswith('torch.nn.'):
            return accepted
        if cls in DESTINATIONS:
            return accepted | _parameters(DESTINATIONS[cls])[0]
        handed_on = _handed_on(init, rest)
        if handed_on is None:
            return None
        given |= handed_on[0] - accepted
        accepted |= handed_on[1]
    return accepted


def _parameters(function: Callable) -> tuple[set[str], Optional[str]]:
    """Return the names of the keyword arguments and the name of ``**kwargs``."""
    parameters = inspect.signature(function).parameters.values()
    names = {
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    return names - {'self'}, rest[0] if rest else None


def _handed_on(init: Callable, rest: str) -> Optional[tuple[set[str], set[str]]]:
    """Tell what happens to ``**rest`` in ``init``.

    Returns:
        the names passed to ``super().__init__`` alongside ``**rest``, and the names
        that are taken out of ``rest``; None if ``rest`` is used in any other way.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, SyntaxError):
        return None
    given: set[str] = set()
    taken: set[str] = set()
    understood = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_super_init(node):
            if any(k.arg is None and _is(k.value, rest) for k in node.keywords):
                understood += 1
                given |= {k.arg for k in node.keywords if k.arg is not None}
        elif name := _name_taken(node, rest):
            understood += 1
            taken.add(name)
    uses = sum(_is(node, rest) for node in ast.walk(tree))
    return (given, taken) if understood == uses else None


def _is(node: Any, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_super_init(call: ast.Call) -> bool:
    """Recognise ``super(...).__init__(...)``."""
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr == '__init__'
        and isinstance(call.func.value, ast.Call)
        and _is(call.func.value.func, 'super')
    )


def _name_taken(node: ast.AST, rest: str) -> Optional[str]:
    """Return 'x' for ``rest.pop('x')``, ``rest.get('x')`` and ``rest['x']``."""
    if isinstance(node, ast.Subscript) and _is(node.value, rest):
        key = node.slice
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and _is(node.func.value, rest)
        and node.args
    ):
        key = node.args[0]
    else:
        return None
    return str(key.value) if isinstance(key, ast.Constant) else None
