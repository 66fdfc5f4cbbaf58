"""Read files of class names, in all common formats."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from mmstop.errors import AnnotationError, ConfigError, short
from mmstop.text import read_json, split_lines

__all__ = ['read_class_file']

HEADERS = ('id', 'index', 'label', 'class_id', 'label_id')
VIDEO = re.compile(r'\.(3gp|avi|flv|m4v|mkv|mov|mp4|mpe?g|webm|wmv)\b', re.IGNORECASE)


def read_class_file(path: Path) -> list[str]:
    """Read the class names in label order.

    Each line is a name, or an id and a name separated by a comma, a semicolon, a tab or
    a space. The ids may come in any order, with or without a header line. A ``.json``
    file holds a list of names, or an object of names by id or ids by name.

    Raises:
        ConfigError: the file is not UTF-8, is a list of videos, or its ids are not
            0, 1, ..., K - 1.
    """
    if path.suffix == '.json':
        return _read_json(path)
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: not UTF-8 ({error}); convert it') from None
    lines = split_lines(text)
    if lines and all(map(VIDEO.search, lines)):
        raise ConfigError(
            f'{path}: it seems to be a list of videos, {short(lines[0])}, expected one '
            f'class name per line; give it as ann_file, and another file as classes'
        )
    numbered = _read_numbered(lines, path)
    return lines if numbered is None else numbered


def _read_json(path: Path) -> list[str]:
    try:
        content = read_json(path)
    except AnnotationError as error:
        raise ConfigError(str(error)) from None
    if isinstance(content, dict):
        pairs = [(str(key), str(value)) for key, value in content.items()]
        if _has_ids(value for _, value in pairs):
            pairs = [(value, key) for key, value in pairs]
        if _has_ids(key for key, _ in pairs):
            return _in_order(pairs, path)
    elif isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    raise ConfigError(
        f'{path}: {short(content)}, expected a list of class names or an object of '
        f'names and ids'
    )


def _read_numbered(lines: list[str], path: Path) -> Optional[list[str]]:
    """Read a file with ids; return None if it has none."""
    for delimiter in ',;\t':
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        try:
            rows = [
                (reader.line_num, row) for row in reader if any(map(str.strip, row))
            ]
        except csv.Error:
            continue
        body = rows[1:] or rows
        columns = [c for c in (0, -1) if _has_ids(_column(body, c))]
        if rows and rows[0][1][0].strip().lower() in HEADERS and len(rows[0][1]) > 1:
            columns = [0]
        if columns:
            is_header = not _has_ids(_column(rows[:1], columns[0]))
            return _in_order(_pairs(rows[is_header:], columns[0], path), path)
    # A name may begin with a number, so a space counts only if all ids are valid.
    pairs = [line.strip().partition(' ')[::2] for line in lines if line.strip()]
    if _has_ids(number for number, _ in pairs) and all(name for _, name in pairs):
        ids = sorted(int(number) for number, _ in pairs)
        if ids[0] in (0, 1) and ids == list(range(ids[0], ids[0] + len(ids))):
            return _in_order(pairs, path)
    return None


Row = tuple[int, list[str]]  # line number and fields


def _column(rows: Iterable[Row], column: int) -> list[str]:
    """List the fields that may be ids; a line with one field has none."""
    return [row[column] if len(row) > 1 else '' for _, row in rows]


def _has_ids(fields: Iterable[str]) -> bool:
    fields = [field.strip() for field in fields]
    return bool(fields) and all(field.isdecimal() for field in fields)


def _pairs(rows: list[Row], column: int, path: Path) -> list[tuple[str, str]]:
    """Return ids and names, in file order."""
    for line, row in rows:
        if len(row) != 2 or not row[column].strip().isdecimal():
            raise ConfigError(
                f'{path}, line {line}: {short(row)}, expected an id (0, 1, ...) and a '
                f'name; put quotes around a name that contains the delimiter'
            )
    return [(row[column], row[1 + column]) for _, row in rows]


def _in_order(pairs: Sequence[tuple[str, str]], path: Path) -> list[str]:
    """Sort names by their ids."""
    names: dict[int, str] = {}
    for number, name in pairs:
        if int(number) in names:
            raise ConfigError(
                f'{path}: {short(names[int(number)])} and {short(name)} both have '
                f'id {int(number)}; correct one of them'
            )
        names[int(number)] = name
    if missing := sorted(set(range(len(names))) - set(names)):
        raise ConfigError(
            f'{path}: no class has id {missing[0]}, and the ids go from '
            f'{min(names)} to {max(names)}; '
            + (
                'labels start at 0, here and in the lists of videos: subtract 1'
                if sorted(names) == list(range(1, len(names) + 1))
                else f'expected 0 to {len(names) - 1} for {len(names)} classes'
            )
        )
    return [names[i] for i in range(len(names))]
