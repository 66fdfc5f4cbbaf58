"""Class names in label order, as MMAction2's label maps have them."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from mmstop.errors import ConfigError, MissingFileError
from mmstop.text import split_lines

__all__ = ['load_classes']

FOLDER = Path(__file__).parent


def load_classes(classes: Union[Sequence[str], str]) -> list[str]:
    """Read class names as words.

    ``ApplyEyeMakeup`` and ``brush_hair`` become 'apply eye makeup' and 'brush hair'; a
    name that already has blanks is left as it is, but for the case of its first letter.

    Args:
        classes: the names themselves, or the name of a list in this folder, or the path
            of a file with one name a line.
    Returns:
        K names in label order.

    Raises:
        FileNotFoundError: no such list or file.
        ValueError: an empty list, an empty name, the same name twice, or not UTF-8.
    """
    where = 'classes'
    if isinstance(classes, str):
        path = _find(classes)
        where = str(path)
        try:
            classes = split_lines(path.read_text(encoding='utf-8-sig'))
        except UnicodeDecodeError as error:
            raise ConfigError(f'{where}: not UTF-8 ({error}); convert it') from None
    names = [_as_words(name) for name in classes]
    if not names:
        raise ConfigError(f'{where} has no class names; give at least one')
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if not name:
            raise ConfigError(
                f'{where}: the name of label {label} is empty; labels are counted by '
                f'line, so remove the line or name the class'
            )
        if name in first:
            raise ConfigError(
                f'{where}: labels {first[name]} and {label} are both {name!r}; '
                f'two classes with one sentence cannot be told apart'
            )
        first[name] = label
    return names


def _find(name: str) -> Path:
    for path in (FOLDER / f'{name}.txt', Path(name)):
        if path.is_file():
            return path
    known = sorted(path.stem for path in FOLDER.glob('*.txt'))
    near = difflib.get_close_matches(name, known, n=1)
    raise MissingFileError(
        f'classes={name!r} is neither a file nor one of {known}'
        + (f'; did you mean {near[0]!r}?' if near else '')
    )


def _as_words(name: str) -> str:
    name = name.strip()
    if ' ' not in name:
        name = name.replace('_', ' ')
        name = re.sub(r'(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', ' ', name)
        return name.lower()
    return name[:1].lower() + name[1:]
