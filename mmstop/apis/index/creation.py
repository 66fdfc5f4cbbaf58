"""Create an index.

The index is created in a temporary folder, which is then renamed. So if several
processes create the same index, one succeeds, and a kill never leaves half an index.
"""

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Union

__all__ = [
    'FORMAT',
    'NAMES',
    'ModelID',
    'Source',
    'explain',
    'make',
    'new_file',
    'require',
]

NAMES = 'videos.db'
FORMAT = 2
TABLES = f"""
PRAGMA journal_mode = WAL;
PRAGMA user_version = {FORMAT};
CREATE TABLE state (
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    version INTEGER NOT NULL,
    rows_file TEXT NOT NULL,
    num_rows INTEGER NOT NULL,
    width INTEGER NOT NULL,
    inverted_file TEXT NOT NULL,
    inverted_digest TEXT NOT NULL,
    inverted_trained INTEGER NOT NULL
);
CREATE TABLE videos (
    number INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL
);
CREATE TABLE holes (number INTEGER PRIMARY KEY);
CREATE TRIGGER forget AFTER DELETE ON videos
    BEGIN INSERT INTO holes VALUES (old.number); END;
"""

REMEDIES = {  # by a word in SQLite's message
    'locked': 'another process has been writing to it for a minute; wait until it ends',
    'readonly': 'it cannot be written to; check its permissions and its disk',
    'full': 'the disk is full; free some space and start again, no batch is lost',
    'I/O': 'its disk fails or is full; fix that and start again, no batch is lost',
    'unable to open': 'check the permissions of its folder',
    'out of memory': 'there is not enough memory',
}


class ModelID(NamedTuple):
    """The model of an index: a readable name, and a hash of config and weights."""

    name: str
    fingerprint: str

    def __str__(self) -> str:
        return f'{self.name} ({self.fingerprint[:12]})'


class Source(NamedTuple):
    """The version of a file, by which a change is detected."""

    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, path: Union[str, os.PathLike]) -> 'Source':
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns)


@contextmanager
def explain(name: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that names the index and the remedy.

    Raises:
        OSError: it is locked, cannot be written to, or the disk is full.
        ValueError: it is damaged or not an index.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # a bug, not a damaged file
        raise
    except sqlite3.Error as error:
        for text, remedy in REMEDIES.items():
            if text in str(error):
                raise OSError(f'index {name}: {error}: {remedy}') from None
        raise ValueError(
            f'{name} is not an index written by mmstop embed, or it is damaged '
            f'({error}); write another one'
        ) from None


def require(path: Path) -> None:
    """Reject anything that is not an index of this version.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is something else, or has another version.
    """
    if not path.exists():
        raise FileNotFoundError(
            f'index {str(path)!r}: there is no such file; mmstop embed writes one'
        )
    if not path.joinpath(NAMES).is_file():
        raise ValueError(
            f'{path} is not an index written by mmstop embed; write another one'
        )


def make(path: Path, model: ModelID) -> None:
    """Create an index, unless another process creates it first.

    Raises:
        ValueError: there is a file of that name, which is not an index.
        OSError: it cannot be written there.
    """
    if path.is_file():
        require(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{uuid.uuid4().hex}.part')
    part.mkdir()
    try:
        with explain(path), closing(sqlite3.connect(part / NAMES)) as db:
            db.executescript(TABLES)
            rows_file = new_file('rows')
            part.joinpath(rows_file).touch()
            state = (*model, 1, rows_file, 0, 0, '', '', 0)
            marks = ', '.join('?' * len(state))
            db.execute(f'INSERT INTO state VALUES ({marks})', state)
            db.commit()
        part.rename(path)
    except OSError:
        if not path.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def new_file(suffix: str) -> str:
    """Return a new, unique file name."""
    return f'{uuid.uuid4().hex}.{suffix}'
