"""Read and print user text, such as file and class names, without altering it."""

import json
import re
from pathlib import Path
from typing import Any, Union

from .errors import AnnotationError, short

__all__ = ['one_line', 'printable', 'read_json', 'split_lines']


def split_lines(text: str) -> list[str]:
    r"""Split a text at its line ends: \n, \r\n or \r.

    ``str.splitlines`` also splits within a line: at form feeds, U+0085 and U+2028.
    """
    lines = re.split(r'\r\n|\r|\n', text)
    return lines if lines[-1] else lines[:-1]


def read_json(path: Union[str, Path]) -> Any:
    """Read a JSON file and reject the faults that ``json`` silently accepts.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file is not UTF-8 or not complete JSON, or it has a
            duplicate key or half a character (a lone surrogate).
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            if key in entries:
                raise AnnotationError(
                    f'{path}: {short(key)} occurs twice; join or remove one of the '
                    f'entries'
                )
            entries[key] = value
        return entries

    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: there is no such file')
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
        content = json.loads(text, object_pairs_hook=unique)
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a character
        return content
    except AnnotationError:
        raise
    except UnicodeEncodeError as error:
        raise AnnotationError(
            f'{path}: {error.object[max(0, error.start - 20) : error.end]!r} ends in '
            f'half a character, which no text can hold; correct the entry'
        ) from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f'{path}: not UTF-8 ({error}); convert it') from None
    except (ValueError, RecursionError) as error:  # also raised by an endless number
        raise AnnotationError(
            f'{path}: not a whole JSON file ({error}); it may be cut short or another '
            f'kind of file, download it again'
        ) from None


def printable(text: str) -> str:
    r"""Escape what a terminal would interpret or cannot show, as in ``\x1b``.

    This covers control characters, line ends, marks that change the writing direction,
    and the bytes of a file name that is not UTF-8.
    """
    return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its class name if it has none."""
    return printable(' '.join(str(error).split())) or type(error).__name__
