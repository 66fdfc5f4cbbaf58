"""Access to the SQLite file of an index, with errors in plain words.

The file is in WAL mode: readers see the index as it was when they began, and readers
and the one writer do not wait for each other. That requires a writable folder and one
machine at a time. In a read-only folder the file is opened as immutable, and an error
is raised if it changes nevertheless.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional
from urllib.parse import quote

__all__ = ['Database', 'explain']

PATIENCE = 60  # seconds that a writer waits for another writer's batch

REMEDIES = {  # by a word in SQLite's message
    'locked': 'another process has been writing to it for a minute; wait until it ends',
    'readonly': 'it cannot be written to; check its permissions and its disk',
    'full': 'the disk is full; free some space and start again, no batch is lost',
    'I/O': 'its disk fails or is full; fix that and start again, no batch is lost',
    'unable to open': 'check the permissions of its folder',
    'out of memory': 'there is not enough memory',
}


class Database:
    """A connection to an existing SQLite file, for one thread.

    Args:
        path: path of the file.
        name: name of the index in messages.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, name: Path) -> None:
        self.path, self.name = path, name
        self._connect()

    def _connect(self) -> None:
        self._frozen: Optional[tuple] = None
        mode = 'rw'
        if not (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)):
            mode = 'ro'
            if not self._log.exists():  # no writer is active and no batch is in the log
                mode, self._frozen = 'ro&immutable=1', self._stamp()
        with explain(self.name):
            self.connection = sqlite3.connect(
                f'file:{quote(str(self.path.absolute()))}?mode={mode}',
                timeout=PATIENCE,
                isolation_level=None,
                uri=True,
            )

    @property
    def _log(self) -> Path:
        return Path(f'{self.path}-wal')

    def _stamp(self) -> tuple:
        stat = self.path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _changed(self) -> bool:
        """Tell whether a file that was opened as immutable has changed."""
        return self._frozen is not None and (
            self._log.exists() or self._frozen != self._stamp()
        )

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Read a snapshot of the file, or change it, all or nothing.

        Raises:
            OSError: it is locked, cannot be written to, or the disk is full.
            ValueError: it is damaged.
        """
        if self._changed():
            self.close()
            self._connect()
        with explain(self.name):
            self.connection.execute('BEGIN IMMEDIATE' if write else 'BEGIN')
            try:
                yield self.connection
                self.connection.execute('COMMIT')
            except BaseException:
                if self.connection.in_transaction:  # SQLite may have ended it
                    self.connection.execute('ROLLBACK')
                raise
        if self._changed():
            raise OSError(f'index {self.name} changed while it was read; try again')

    def close(self) -> None:
        """Close the file; closing twice is not an error."""
        self.connection.close()


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
