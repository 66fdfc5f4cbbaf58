"""The SQLite file of an index: opened, read, written, and its faults in plain words.

The file is in WAL mode: readers see the index as it was when they began, and neither
they nor the one writer wait for each other. That needs a folder that can be written to
and one machine at a time; in a folder that cannot be, the file is opened as one that
does not change, and what changed nevertheless is refused.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional
from urllib.parse import quote

__all__ = ['Database', 'explain']

PATIENCE = 60  # seconds that a writer waits for another one's batch

REMEDIES = {  # by what SQLite's message says
    'locked': 'another process has been writing to it for a minute; let that end',
    'readonly': 'it cannot be written to; check its permissions and its disk',
    'full': 'the disk is full; free some space and start again, no batch is lost',
    'I/O': 'its disk fails or is full; see to it and start again, no batch is lost',
    'unable to open': 'check the permissions of its folder',
    'out of memory': 'there is not enough memory',
}


class Database:
    """A connection to an SQLite file that exists, for one thread.

    Args:
        path: of the file.
        name: what messages call it.

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
            if not self._log.exists():  # nobody writes, or some batch is in the log
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
        """Tell whether somebody writes to a file that was opened as unchanging."""
        return self._frozen is not None and (
            self._log.exists() or self._frozen != self._stamp()
        )

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Read one moment of the file, or change it: all of the body or nothing.

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
        """Close the file; closing twice is no error."""
        self.connection.close()


@contextmanager
def explain(name: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that names the index and the remedy.

    Raises:
        OSError: it is locked, cannot be written to, or the disk is full.
        ValueError: it is damaged, or no index.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # ours, not the file's
        raise
    except sqlite3.Error as error:
        for text, remedy in REMEDIES.items():
            if text in str(error):
                raise OSError(f'index {name}: {error}: {remedy}') from None
        raise ValueError(
            f'{name} is no index that mmstop embed wrote, or it is damaged ({error}); '
            f'write another one'
        ) from None
