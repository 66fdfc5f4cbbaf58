"""The files of an index, and snapshots of their valid content.

The SQLite file is in WAL mode: readers see the index as it was when they began, and
readers and the one writer do not wait for each other. That requires a writable folder
and one machine at a time. In a read-only folder the file is opened as immutable, and an
error is raised if it changes nevertheless.
"""

import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional
from urllib.parse import quote

import numpy as np

from .creation import FORMAT, NAMES, explain, require
from .embedding_file import Rows
from .inverted_file import Inverted, digest

__all__ = ['Moment', 'Store']

PATIENCE = 60  # seconds that a writer waits for another writer's batch


class Moment(NamedTuple):
    """A snapshot of an index: its valid content at one moment."""

    db: sqlite3.Connection  # in a transaction
    version: int  # increases with every change
    rows_file: str
    num_rows: int  # in the file, including those of removed videos
    width: int
    inverted_file: str  # '' if there is none
    inverted_digest: str
    inverted_trained: int

    def one(self, query: str, *values: Any) -> tuple:
        """Return the first row of a query's result."""
        row = self.db.execute(query, values).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f'{query} finds nothing')
        return row

    def numbers(self, table: str) -> np.ndarray:
        """Return the numbers of rows in a table, sorted."""
        found = self.db.execute(f'SELECT number FROM {table} ORDER BY number')
        return np.fromiter((number for (number,) in found), np.int64)

    def forget(self, paths: Iterable[str]) -> None:
        """Remove videos; their rows become holes."""
        delete = 'DELETE FROM videos WHERE path = ?'
        self.db.executemany(delete, [(path,) for path in paths])

    def update(self, **changes: Any) -> None:
        """Change the state; it becomes valid when the transaction ends."""
        names = ''.join(f', {name} = ?' for name in changes)
        values = tuple(changes.values())
        self.db.execute(f'UPDATE state SET version = version + 1{names}', values)


class Store:
    """The open files of an index, for one thread.

    Args:
        path: path of the folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not an index of this version.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        require(path)
        self.path = path
        self._rows: Optional[Rows] = None
        self._holes: tuple[int, np.ndarray] = -1, np.empty(0, np.int64)
        self._inverted: tuple[str, Optional[Inverted]] = '', None
        self._connect()

    def _connect(self) -> None:
        self._file = self.path / NAMES
        self._log = self.path / f'{NAMES}-wal'
        self._frozen: Optional[tuple] = None
        mode = 'rw'
        if not (os.access(self._file, os.W_OK) and os.access(self.path, os.W_OK)):
            mode = 'ro'
            if not self._log.exists():  # no writer is active and no batch is in the log
                mode, self._frozen = 'ro&immutable=1', self._stamp()
        with explain(self.path):
            self.db = sqlite3.connect(
                f'file:{quote(str(self._file.absolute()))}?mode={mode}',
                timeout=PATIENCE,
                isolation_level=None,
                uri=True,
            )

    def _stamp(self) -> tuple:
        stat = self._file.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _changed(self) -> bool:
        """Tell whether a file that was opened as immutable has changed."""
        return self._frozen is not None and (
            self._log.exists() or self._frozen != self._stamp()
        )

    def close(self) -> None:
        """Close the files; closing twice is not an error."""
        self.db.close()
        if self._rows is not None:
            self._rows.close()

    @contextmanager
    def moment(self, write: bool = False) -> Iterator[Moment]:
        """Open a snapshot for reading, or a transaction that changes all or nothing.

        Raises:
            OSError: it is locked, cannot be written to, or the disk is full.
            ValueError: it is damaged.
        """
        if self._changed():
            self.db.close()
            self._connect()
        with explain(self.path):
            self.db.execute('BEGIN IMMEDIATE' if write else 'BEGIN')
            try:
                yield self._read_state()
                self.db.execute('COMMIT')
            except BaseException:
                if self.db.in_transaction:  # SQLite may have ended it
                    self.db.execute('ROLLBACK')
                raise
        if self._changed():
            raise OSError(f'index {self.path} changed while it was read; try again')

    def _read_state(self) -> Moment:
        (version,) = self.db.execute('PRAGMA user_version').fetchone()
        if version != FORMAT:
            raise ValueError(
                f'index {self.path} has format {version}, this version of mmstop '
                f'reads {FORMAT}; use another version or write another index'
            )
        names = ', '.join(Moment._fields[1:])
        state = self.db.execute(f'SELECT {names} FROM state').fetchone()
        if state is None:
            raise sqlite3.DatabaseError('it has no state')
        now = Moment(self.db, *state)
        for name in (now.rows_file, now.inverted_file):
            if Path(name).name != name:
                raise sqlite3.DatabaseError(f'{name!r} is not a plain file name')
        return now

    def rows(self, now: Moment) -> Rows:
        """Map the rows of a snapshot."""
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
        """Read the inverted file; None if there is none or it cannot be trusted."""
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
            reason = 'it was changed after it was written'
        warnings.warn(
            f'{path} is not used ({reason}): searches compare all rows; '
            f'mmstop embed prepares it again',
            stacklevel=2,
        )
        return None
