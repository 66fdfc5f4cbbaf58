"""Annotation files: lists of videos or of frames with labels, and captions.

MMAction2's lists have lines such as 'a/b.mp4 3' for videos and 'a/b 163 3' for raw
frames. Its retrieval format is JSON: {"video7.mp4": ["a caption", ...], ...}.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from mmengine.fileio import get_text

from mmstop.errors import AnnotationError, short
from mmstop.text import read_json

__all__ = [
    'Labelled',
    'LabelledFrames',
    'check_captions',
    'load_captions',
    'load_frame_labels',
    'load_labels',
]

# HMDB51's video names: ..._<body part>_<camera>_<people>_<view>_<quality>_<number>
HMDB51 = re.compile(r'[^/]+_[fhlu]_[cn]m_np\d_(ba|fr|le|ri)_(bad|goo|med)_\d+\.avi')

DELIMITERS = {' ': 'a space', ',': 'a comma', '\t': 'a tab', ';': 'a semicolon'}


class Labelled(NamedTuple):
    """A line of a list."""

    filename: str
    label: Union[int, list[int]]  # -1 if there is none, a list for several classes
    line: int  # counted from 1


class LabelledFrames(NamedTuple):
    """A line of a list of extracted frames."""

    folder: str
    total_frames: int
    label: Union[int, list[int]]
    line: int


def load_labels(
    path: Union[str, Path],
    delimiter: str = ' ',
    multi_class: bool = False,
    unlabelled: bool = False,
) -> list[Labelled]:
    """Read videos and labels in file order.

    Byte order marks, Windows line ends, empty lines and, with one label per line, paths
    with spaces are supported.

    Args:
        delimiter: separator between path and label.
        multi_class: a line has any number of labels, and its path has no delimiter.
        unlabelled: allow a list without any labels; all labels are then -1.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file or one of its lines is invalid.
    """
    lines = _read_lines(path)
    labelled = not unlabelled or any(_labelled_by(line, delimiter) for _, line in lines)
    parse = _parse_several if multi_class else _parse_one
    entries = []
    for number, line in lines:
        filename: str = line
        label: Any = [] if multi_class else -1
        if labelled:
            filename, label = parse(line, delimiter)
            if label is None:
                raise AnnotationError(
                    f'{path}, line {number}: {short(line)} is not a path, '
                    f'{_name(delimiter)} and a label (0, 1, ...)'
                    f'{_other(line, delimiter)}'
                )
            _check_label(path, number, line, label)
        entries.append(Labelled(filename, label, number))
    if labelled and not any(entry.label != [] for entry in entries):
        raise AnnotationError(
            f'{path}: no line has a label after {_name(delimiter)}'
            f'{_other(lines[0][1], delimiter)}'
        )
    if not multi_class:
        _check_columns(path, entries, delimiter)
        _check_official(path, entries)
    _check_unique(path, [(entry.filename, entry.line) for entry in entries])
    return entries


def load_frame_labels(
    path: Union[str, Path],
    delimiter: str = ' ',
    multi_class: bool = False,
    unlabelled: bool = False,
) -> list[LabelledFrames]:
    """Read folders, numbers of frames and labels in file order.

    Args:
        delimiter, multi_class, unlabelled: as in :func:`load_labels`.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file or one of its lines is invalid.
    """
    lines = _read_lines(path)
    labelled = not unlabelled or any(
        _parse_frames(line, delimiter, multi_class, True)[1] for _, line in lines
    )
    entries = []
    for number, line in lines:
        folder, total, label = _parse_frames(line, delimiter, multi_class, labelled)
        if label is None or not total:
            raise AnnotationError(
                f'{path}, line {number}: {short(line)} is not a folder, the number of '
                f'its frames{" and a label" if labelled else ""}, with '
                f'{_name(delimiter)} in between{_other(line, delimiter)}'
            )
        if labelled:
            _check_label(path, number, line, label)
        if total < 0:
            raise AnnotationError(
                f'{path}, line {number}: {short(line)} has {total} frames; correct or '
                f'remove the line'
            )
        entries.append(LabelledFrames(folder, total, label, number))
    if not unlabelled and not any(entry.label != [] for entry in entries):
        raise AnnotationError(f'{path}: no line has a label after the number of frames')
    _check_unique(path, [(entry.folder, entry.line) for entry in entries])
    return entries


def _read_lines(path: Union[str, Path]) -> list[tuple[int, str]]:
    """Read the lines that are not empty, with their numbers."""
    try:
        text = get_text(path, encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise AnnotationError(f'{path}: not UTF-8 ({error}); convert it') from None
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.split('\n'), 1)
        if line.strip()
    ]
    if not lines:
        raise AnnotationError(f'{path}: it has no videos')
    return lines


def _parse_frames(
    line: str, delimiter: str, multi_class: bool, labelled: bool
) -> tuple[str, Optional[int], Union[None, int, list[int]]]:
    """Read a line; an invalid number of frames or label becomes None."""
    label: Any = -1
    if multi_class:
        folder, label = _parse_several(line, delimiter)
        return (folder, label[0], label[1:]) if label else (folder, None, None)
    if labelled:
        line, label = _parse_one(line, delimiter)
    folder, total = _parse_one(line, delimiter)
    return folder, total, label


def _check_label(
    path: Union[str, Path], number: int, line: str, label: Union[int, list[int]]
) -> None:
    lowest = min(label, default=0) if isinstance(label, list) else label
    if lowest < 0:
        raise AnnotationError(
            f'{path}, line {number}: {short(line)} has the label {lowest}; labels '
            f'start at 0, so correct or remove the line'
        )


def _parse_one(line: str, delimiter: str) -> tuple[str, Any]:
    filename, _, field = line.rpartition(delimiter)
    return filename.strip(), _as_label(field) if filename else None


def _parse_several(line: str, delimiter: str) -> tuple[str, Any]:
    filename, *fields = line.split(delimiter)
    labels = [_as_label(field) for field in fields]
    known = [label for label in labels if label is not None]
    return filename, known if len(known) == len(labels) else None


def _as_label(field: str) -> Optional[int]:
    try:
        return int(field)
    except ValueError:
        return None


def _labelled_by(line: str, delimiter: str) -> list[str]:
    """List the delimiters that give a line a label, the expected delimiter first."""
    return [
        d
        for d in dict.fromkeys([delimiter, *DELIMITERS])
        if _parse_one(line, d)[1] is not None
    ]


def _other(line: str, delimiter: str) -> str:
    """Suggest the format or the delimiter that the line seems to have."""
    if line.startswith(('{', '[')):
        return '. It seems to be a JSON file, not a list'
    for other in _labelled_by(line, delimiter):
        if other != delimiter:
            return f'. It has {_name(other)}: set delimiter={other!r} in the dataset'
    return ''


def _name(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))


def _check_columns(
    path: Union[str, Path], entries: list[Labelled], delimiter: str
) -> None:
    """Reject a list with a number of frames between path and label."""
    parts = [filename.rpartition(delimiter) for filename, *_ in entries]
    paths = {head.strip() for head, _, number in parts if head and number.isdecimal()}
    if len(paths) == len(entries):
        raise AnnotationError(
            f'{path}: it seems to be a list of paths, frames and labels, '
            f'{short(entries[0].filename)} and {entries[0].label}; for folders of '
            f'frames use --rawframes, for videos remove the middle column'
        )


def _check_official(path: Union[str, Path], entries: list[Labelled]) -> None:
    """Reject HMDB51's official split files, which have no labels."""
    if {label for _, label, _ in entries} <= {0, 1, 2} and all(
        HMDB51.fullmatch(filename) for filename, *_ in entries
    ):
        raise AnnotationError(
            f'{path}: it seems to be one of the split files of HMDB51, whose numbers '
            f'are not labels but 0 for unused, 1 for training and 2 for testing; '
            f"make lists of 'class/video.avi label' with MMAction2's tools/data/hmdb51"
        )


def _check_unique(path: Union[str, Path], entries: list[tuple[str, int]]) -> None:
    first: dict[str, int] = {}
    for filename, line in entries:
        if filename in first:
            raise AnnotationError(
                f'{path}: lines {first[filename]} and {line} both name '
                f'{short(filename)}; remove one of them'
            )
        first[filename] = line


# --- Captions -----------------------------------------------------------------------


def load_captions(path: Union[str, Path]) -> dict[str, list[str]]:
    """Read the captions of every video, in file order.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file or an entry is invalid.
    """
    captions = read_json(path)
    check_captions(captions, path)
    return captions


def check_captions(captions: Any, path: Union[str, Path]) -> None:
    """Check that every video has captions and no caption is empty.

    Args:
        captions: the content of ``path``, read from it or to be written to it.

    Raises:
        AnnotationError: for the first fault found.
    """
    if not isinstance(captions, dict) or not captions:
        raise AnnotationError(
            f'{path}: expected {{"video.mp4": ["caption", ...], ...}} with at least '
            f'one video, got {short(captions)}'
        )
    for video, texts in captions.items():
        if not isinstance(texts, list) or not texts:
            raise AnnotationError(
                f'{path}: {short(video)} has {short(texts)}, expected a list of at '
                f'least one caption; add it or remove the video'
            )
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise AnnotationError(
                    f'{path}: caption {i} of {short(video)} is {short(text)}, expected '
                    f'words; remove the caption'
                )
