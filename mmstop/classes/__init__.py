"""Class names in label order, as in MMAction2's label maps, and their sentences."""

import difflib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from mmstop.errors import ConfigError, MissingFileError

from .files import read_class_file
from .templates import ENSEMBLES, TEMPLATE, list_templates, write_sentences

__all__ = [
    'ENSEMBLES',
    'TEMPLATE',
    'list_templates',
    'load_classes',
    'write_sentences',
]

FOLDER = Path(__file__).parent


def load_classes(classes: Union[Sequence[str], str]) -> list[str]:
    """Read class names as plain words.

    ``ApplyEyeMakeup`` and ``brush_hair`` become 'apply eye makeup' and 'brush hair'. A
    name that already has spaces stays as it is, except that its first letter becomes
    lower case.

    Args:
        classes: the names themselves; or the name of a list in this folder; or the path
            of a file with one name per line, or with ids and names (CSV, JSON) in any
            order.
    Returns:
        K names in label order.

    Raises:
        FileNotFoundError: there is no such list or file.
        ValueError: the list is empty, has an empty or duplicate name, or the file has
            another format.
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
                f'{where}: the name of label {label} is empty; each line is one label, '
                f'so remove the line or name the class'
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
    """Warn if a file has the same classes as a packaged list in another order.

    Some published files swap neighbours, such as kick and kick ball of HMDB51, and so
    contradict the lists of videos published with them.
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
