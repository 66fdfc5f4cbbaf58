"""Read and print user text, such as file and class names, without altering it."""

import re

__all__ = ['one_line', 'printable', 'split_lines']


def split_lines(text: str) -> list[str]:
    r"""Split a text at its line ends: \n, \r\n or \r.

    ``str.splitlines`` also splits within a line: at form feeds, U+0085 and U+2028.
    """
    lines = re.split(r'\r\n|\r|\n', text)
    return lines if lines[-1] else lines[:-1]


def printable(text: str) -> str:
    r"""Escape what a terminal would interpret or cannot show, as in ``\x1b``.

    This covers control characters, line ends, marks that change the writing direction,
    and the bytes of a file name that is not UTF-8.
    """
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its class name if it has none."""
    return printable(' '.join(str(error).split())) or type(error).__name__
