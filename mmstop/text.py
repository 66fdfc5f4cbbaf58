"""Text of users, such as names of files and classes, taken and shown as it is."""

import re

__all__ = ['one_line', 'printable', 'split_lines']


def split_lines(text: str) -> list[str]:
    r"""Split a text at the ends of its lines: \n, \r\n or \r.

    ``str.splitlines`` also splits where a line goes on: at form feeds, U+0085, U+2028.
    """
    lines = re.split(r'\r\n|\r|\n', text)
    return lines if lines[-1] else lines[:-1]


def printable(text: str) -> str:
    r"""Write what a terminal would obey, or cannot show, as Python writes it: ``\x1b``.

    That is control characters, line ends, marks that change the direction of writing,
    and the bytes of a file name that is not UTF-8.
    """
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(error: BaseException) -> str:
    """Return what an exception says, or else its name, without line ends."""
    return printable(' '.join(str(error).split())) or type(error).__name__
