"""The files of an index, and what of them is valid at one moment."""

import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from .database import Database
from .inverted import Inverted, digest
from .making import FORMAT, NAMES, require
from .rows import Rows

__all__ = ['Moment', 'Store']


class Moment(NamedTuple):
    """What is valid at one moment."""

    db: sqlite3.Connection  # in a transaction
    version: int  # grows with every change
    rows_file: str
    num_rows: int  # in it, with those of videos that are gone
    width: int
    inverted_file: str  # '' without
    inverted_digest: str
    inverted_trained: int

    def one(self, query: str, *values: Any) -> tuple:
        """Return the one row that a query finds."""
        row = self.db.execute(query, values).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f'nothing is found by {query}')
        return row

    def numbers(self, table: str) -> np.ndarray:
        """Return the numbers of rows in a table, sorted."""
        found = self.db.execute(f'SELECT number FROM {table} ORDER BY number')
        return np.fromiter((number for (number,) in found), np.int64)

    def forget(self, paths: Iterable[str]) -> None:
        """Take out videos; their rows become holes."""
        delete = 'DELETE FROM videos WHERE path = ?'
        self.db.executemany(delete, [(path,) for path in paths])

    def update(self, **changes: Any) -> None:
        """Say what is valid from the end of the transaction on."""
        names = ''.join(f', {name} = ?' for name in changes)
        values = tuple(changes.values())
        self.db.execute(f'UPDATE state SET version = version + 1{names}', values)


class Store:
    """The open files of an index, for one thread.

    Args:
        path: of the folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no index of this version.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        require(path)
        self.path = path
        self.database = Database(path / NAMES, path)
        self._rows: Optional[Rows] = None
        self._holes: tuple[int, np.ndarray] = -1, np.empty(0, np.int64)
        self._inverted: tuple[str, Optional[Inverted]] = '', None

    def close(self) -> None:
        """Close the files; closing twice is no error."""
        self.database.close()
        if self._rows is not None:
            self._rows.close()

    @contextmanager
    def moment(self, write: bool = False) -> Iterator[Moment]:
        """Read one moment, or make the next: all of the body or nothing.

        Raises:
            OSError: it is locked, cannot be written to, or the disk is full.
            ValueError: it is damaged.
        """
        with self.database.transaction(write) as db:
            (version,) = db.execute('PRAGMA user_version').fetchone()
            if version != FORMAT:
                raise ValueError(
                    f'index {self.path} has format {version}, this version of mmstop '
                    f'reads {FORMAT}; use another version or write another index'
                )
            names = ', '.join(Moment._fields[1:])
            state = db.execute(f'SELECT {names} FROM state').fetchone()
            if state is None:
                raise sqlite3.DatabaseError('it has no state')
            now = Moment(db, *state)
            for name in (now.rows_file, now.inverted_file):
                if Path(name).name != name:
                    raise sqlite3.DatabaseError(f'{name!r} is no name of its own')
            yield now

    def rows(self, now: Moment) -> Rows:
        """Map the rows of a moment."""
        path, known = self.path / now.rows_file, self._rows
        if known is None or known.path != path or known.width != now.width:
            if known is not None:
                known.close()
            self._rows = known = Rows(path, now.width)
        known.grow(now.num_rows)
        return known

    def holes(self, now: Moment) -> np.ndarray:
        """Return the numbers of rows whose videos are gone, sorted."""
        if self._holes[0] != now.version:
            self._holes = now.version, now.numbers('holes')
        return self._holes[1]

    def inverted(self, now: Moment) -> Optional[Inverted]:
        """Read the inverted file; None where there is none that can be believed."""
        if now.inverted_file != self._inverted[0]:
            self._inverted = now.inverted_file, self._open_inverted(now)
        return self._inverted[1]

    def _open_inverted(self, now: Moment) -> Optional[Inverted]:
        if not now.inverted_file:
            return None
        path = self.path / now.inverted_file
        try:
            data = path.read_bytes()
        except OSError as error:
            reason = error.strerror
        else:
            if digest(data) == now.inverted_digest:
                return Inverted.read(data, now.inverted_trained)
            reason = 'it is not as it was written'
        warnings.warn(
            f'{path} is not used ({reason}): searches compare all rows; '
            f'mmstop embed prepares it again',
            stacklevel=2,
        )
        return None
