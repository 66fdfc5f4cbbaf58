"""Create an index, either empty or from the single file of older versions.

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
from urllib.parse import quote

import numpy as np

from .embedding_file import BLOCK, append

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
FORMAT = 2  # 1 was the single file
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
    if path.is_file():
        with closing(_open_old(path)):
            raise ValueError(
                f'index {path} was written by an older version; mmstop embed with '
                f'--out {path} converts it and embeds only what is new'
            )
    if not path.is_dir():
        raise FileNotFoundError(
            f'index {str(path)!r}: there is no such file; mmstop embed writes one'
        )
    if not path.joinpath(NAMES).is_file():
        raise ValueError(f'{path} is not an index written by mmstop embed')


def make(path: Path, model: ModelID) -> None:
    """Create an index, unless another process creates it first.

    Raises:
        ValueError: there is a file of that name which is not an index.
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{uuid.uuid4().hex}.part')
    part.mkdir()
    try:
        if path.is_file():
            with closing(_open_old(path)) as old, explain(path):
                _fill(part, _read_model(old), _read_old(old))
            path.rename(f'{path}.old')
        else:
            with explain(path):
                _fill(part, model, iter(()))
        part.rename(path)
    except OSError:
        if not path.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def new_file(suffix: str) -> str:
    """Return a new, unique file name."""
    return f'{uuid.uuid4().hex}.{suffix}'


def _fill(
    folder: Path, model: ModelID, batches: Iterator[tuple[list[tuple], np.ndarray]]
) -> None:
    file, num_rows, width = new_file('rows'), 0, 0
    folder.joinpath(file).touch()
    with closing(sqlite3.connect(folder / NAMES)) as db:
        db.executescript(TABLES)
        for videos, rows in batches:
            append(folder / file, 4 * rows.shape[1] * num_rows, rows.data)
            db.executemany(
                'INSERT INTO videos VALUES (?, ?, ?, ?)',
                [(number, *video) for number, video in enumerate(videos, num_rows)],
            )
            num_rows, width = num_rows + len(rows), rows.shape[1]
        state = (*model, 1, file, num_rows, width, '', '', 0)
        db.execute(f'INSERT INTO state VALUES ({", ".join("?" * len(state))})', state)
        db.commit()


# --- The single file of older versions ----------------------------------------------


def _open_old(path: Path) -> sqlite3.Connection:
    with explain(path):
        db = sqlite3.connect(f'file:{quote(str(path.absolute()))}?mode=ro', uri=True)
        try:
            _read_model(db)
            db.execute('SELECT path, size, mtime_ns, embedding FROM videos LIMIT 0')
        except sqlite3.Error:
            db.close()
            raise
        return db


def _read_model(old: sqlite3.Connection) -> ModelID:
    row = old.execute('SELECT name, fingerprint FROM model').fetchone()
    if row is None:
        raise sqlite3.DatabaseError('it names no model')
    return ModelID(*row)


def _read_old(old: sqlite3.Connection) -> Iterator[tuple[list[tuple], np.ndarray]]:
    cursor = old.execute(
        'SELECT path, size, mtime_ns, embedding FROM videos ORDER BY id'
    )
    while found := cursor.fetchmany(BLOCK):
        rows = np.frombuffer(b''.join(row[-1] for row in found), '<f4')
        yield [row[:-1] for row in found], rows.reshape(len(found), -1)
