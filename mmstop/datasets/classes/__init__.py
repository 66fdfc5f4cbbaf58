"""Class names in label order, as MMAction2's label maps have them."""

import difflib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from mmstop.datasets.class_files import read_class_file
from mmstop.errors import ConfigError, MissingFileError

__all__ = ['load_classes']

FOLDER = Path(__file__).parent


def load_classes(classes: Union[Sequence[str], str]) -> list[str]:
    """Read class names as words.

    ``ApplyEyeMakeup`` and ``brush_hair`` become 'apply eye makeup' and 'brush hair'; a
    name that already has blanks is left as it is, but for the case of its first letter.

    Args:
        classes: the names themselves, or the name of a list in this folder, or the path
            of a file: a name a line, or an id and a name (CSV, JSON), in any order.
    Returns:
        K names in label order.

    Raises:
        FileNotFoundError: no such list or file.
        ValueError: an empty list, an empty name or the same name twice, or a file of
            another form.
    """
    where = 'classes'
    if isinstance(classes, str):
        path = _find(classes)
        where = str(path)
        classes = read_class_file(path)
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
    if where != 'classes':
        _compare_order(where, names)
    return names


def _compare_order(where: str, names: list[str]) -> None:
    """Warn of a file that has the classes of a list of ours in another order.

    Some published files swap neighbours, such as kick and kick ball of HMDB51, against
    the lists of videos beside them.
    """
    folded = [name.casefold() for name in names]
    for path in sorted(FOLDER.glob('*.txt')):
        known = [_as_words(name).casefold() for name in read_class_file(path)]
        if folded != known and sorted(folded) == sorted(known):
            label = next(
                i for i, pair in enumerate(zip(folded, known)) if len({*pair}) > 1
            )
            warnings.warn(
                f'{where} has the classes of {path.stem!r} in another order than '
                f'MMAction2: label {label} is {names[label]!r} instead of '
                f'{known[label]!r}; if your lists of videos are those of MMAction2, '
                f'set classes={path.stem!r}',
                stacklevel=3,
            )


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
