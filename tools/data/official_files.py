"""Readers of the official files of retrieval datasets, which reject invalid content.

Every fault raises an ``AnnotationError`` that names the file and the entry.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmstop.datasets import AnnotationError, check_captions, read_json
from mmstop.errors import short
from mmstop.text import split_lines

Captions = dict[str, list[str]]  # video id or file name -> captions

VIDEO_SUFFIXES = frozenset(
    '.3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv'.split()
)


def stem(name: str) -> str:
    """Remove a video's extension; other dots belong to the name."""
    path = PurePosixPath(name)
    return str(path.with_suffix('')) if path.suffix.lower() in VIDEO_SUFFIXES else name


def clean(text: str) -> str:
    """Leave one space between words and none around them."""
    return ' '.join(text.split())


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark."""
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise AnnotationError(f'{path}: not UTF-8 ({error}); convert it') from None
    if not text.strip():
        raise AnnotationError(f'{path}: the file is empty; download it again')
    return text


def read_ids(path: Path) -> list[str]:
    """Read a list of video ids; an extension is not part of the id.

    There is one per line, or the file is a JSON list, as ActivityNet's train_ids.json.
    """
    text = read_text(path)
    lines, unit = split_lines(text), 'line'
    if text.lstrip().startswith('['):
        lines, unit = read_json(path), 'entry'
        if not all(isinstance(video, str) for video in lines):
            raise AnnotationError(
                f'{path}: expected a list of video ids, got {short(lines)}; it may be '
                f'another file, download it again'
            )
    ids: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        video = stem(line.strip())
        if video in ids:
            raise AnnotationError(
                f'{path}: {unit} {number}: {short(video)} occurs twice; remove one of '
                f'them'
            )
        if video:
            ids[video] = None
    return list(ids)


def read_csv(
    path: Path, key: str | None, columns: Sequence[str]
) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header.

    Args:
        key: the column whose values must be unique, if there is one.
        columns: the columns that must exist and be filled in, including the key.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=''), strict=True)
    rows: list[dict[str, str]] = []
    keys = set()
    try:
        header = [column.strip() for column in next(lines)]
        for column in columns:
            if column not in header:
                raise AnnotationError(
                    f'{path}: header: no column {column!r} but {short(header)}; it may '
                    f'be another file, download it again'
                )
        for fields in lines:
            if not any(map(str.strip, fields)):
                continue  # a blank line
            where = f'{path}: line {lines.line_num}'
            if len(fields) != len(header):
                raise AnnotationError(
                    f'{where}: {len(fields)} fields, expected {len(header)}; it may be '
                    f'cut short or lack quotes around a comma, correct the line'
                )
            row = dict(zip(header, map(str.strip, fields)))
            check_fields(row, dict.fromkeys(columns, str), where)
            if key and row[key] in keys:
                raise AnnotationError(
                    f'{where}: {short(row[key])} occurs twice; remove one of the lines'
                )
            keys.add(key and row[key])
            rows.append(row)
    except csv.Error as error:
        raise AnnotationError(
            f'{path}: line {lines.line_num}: not CSV ({error}); correct the line or '
            f'download the file again'
        ) from None
    if not rows:
        raise AnnotationError(f'{path}: only a header, no video; download it again')
    return rows


def check_records(records: Any, fields: Mapping[str, type], where: str) -> None:
    """Check that a value from a JSON file is a list of objects with these fields."""
    if not isinstance(records, list) or not records:
        raise AnnotationError(
            f'{where}: expected a list of objects with {", ".join(fields)}, got '
            f'{short(records)}; it may be another file, download it again'
        )
    for i, record in enumerate(records):
        check_fields(record, fields, f'{where}: entry {i}')


def check_fields(record: Any, fields: Mapping[str, type], where: str) -> None:
    """Check that an object has these fields; texts must not be blank."""
    if not isinstance(record, dict):
        raise AnnotationError(
            f'{where}: {short(record)}, expected an object with {", ".join(fields)}; '
            f'it may be another file, download it again'
        )
    for field, kind in fields.items():
        if field not in record:
            raise AnnotationError(
                f'{where}: no {field!r} but {short(list(record))}; it may be another '
                f'file, download it again'
            )
        value = record[field]
        if not isinstance(value, kind) or (kind is str and not value.strip()):
            expected = 'words' if kind is str else f'a {kind.__name__}'
            raise AnnotationError(
                f'{where}: {field!r} is {short(value)}, expected {expected}; correct '
                f'or remove the entry'
            )


def choose(captions: Captions, path: Path, listed: Path | None) -> Captions:
    """Select and check the captions of the listed videos, in the order of the list.

    Args:
        path: file of the captions, for messages.
        listed: file with the list of ids; None selects all.
    """
    if listed:
        ids = read_ids(listed)
        check_known(ids, captions, path, listed)
        captions = {video: captions[video] for video in ids}
    check_captions(captions, path)
    return captions


def check_known(ids: Iterable[str], captions: Captions, path: Path, by: Path) -> None:
    """Check that every video listed in one file has captions in another."""
    for video in ids:
        if video not in captions:
            raise AnnotationError(
                f'{by}: {short(video)} has no captions in {path}; remove it or '
                f'download the captions again'
            )


def with_suffix(captions: Captions, suffix: str) -> Captions:
    """Turn video ids into file names."""
    return {f'{video}{suffix}': texts for video, texts in captions.items()}
