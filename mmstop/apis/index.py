"""Embeddings of many videos in one file, and the search through them.

The file is an SQLite database: a batch is one transaction, so that a kill at any moment
leaves whole batches; one row a video makes changes cheap; every language reads it; and
there is one file to copy. FAISS searches: exactly (``IndexFlatIP``) up to some 100,000
videos, where a query takes milliseconds and an approximation would gain nothing; beyond
that by an inverted file (``IVF,Flat``), which compares the query with the part of the
videos that lies near it. The inverted file is built once, beside the database, and
holds for exactly the rows that it was built from; where it is out of date the search is
exact, slower and still right.
"""

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Optional, Union

import numpy as np

__all__ = ['EXACT', 'Hit', 'ModelID', 'Source', 'VideoIndex']

EXACT = 100_000  # videos up to which the search is exact
PROBED = 1 / 8  # of the lists of an inverted file, those that a query looks into

TABLES = """
CREATE TABLE IF NOT EXISTS model (name TEXT NOT NULL, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    embedding BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS inverted (state TEXT NOT NULL);
"""


class ModelID(NamedTuple):
    """Who embedded: a name for people and a hash of config and weights."""

    name: str
    fingerprint: str

    def __str__(self) -> str:
        return f'{self.name} ({self.fingerprint[:12]})'


class Source(NamedTuple):
    """By what a changed file is known."""

    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, path: Union[str, os.PathLike]) -> 'Source':
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns)


class Hit(NamedTuple):
    """A video that was found, and the cosine of its embedding with the query's."""

    path: str
    score: float


class Searcher(NamedTuple):
    """A FAISS index and what its numbers stand for."""

    paths: list[str]
    index: Any
    state: str  # of the rows that it was made from


class VideoIndex:
    """The embeddings of some videos by one model, as a file.

    ``with VideoIndex(path) as index: paths, vectors = index.load()``

    Args:
        path: of the database; with ``model`` it is made if need be.
        model: who embeds; None to open what is there.

    Raises:
        FileNotFoundError: there is no such index, and ``model`` is None.
        ValueError: the file is no index, or another model made it.
    """

    def __init__(
        self, path: Union[str, os.PathLike], model: Optional[ModelID] = None
    ) -> None:
        self.path = Path(path)
        if model is None and not self.path.is_file():
            raise FileNotFoundError(
                f'index {str(path)!r}: there is no such file; mmstop embed writes one'
            )
        self._searcher: Optional[Searcher] = None
        try:
            self.db = sqlite3.connect(path, isolation_level='IMMEDIATE')
            self.model = self._open(model)
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f'{path} is no index that mmstop embed wrote ({error})'
            ) from None
        if model is not None:
            self.check(model)

    def _open(self, model: Optional[ModelID]) -> ModelID:
        if model is not None:
            self.db.executescript(TABLES)
        row = self.db.execute('SELECT name, fingerprint FROM model').fetchone()
        if row is None and model is not None:
            with self.db:
                self.db.execute('INSERT INTO model VALUES (?, ?)', model)
            return model
        if row is None:
            raise sqlite3.DatabaseError('it names no model')
        return ModelID(*row)

    def __enter__(self) -> 'VideoIndex':
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is no error."""
        self.db.close()

    def check(self, model: ModelID) -> None:
        """Refuse a model that did not make this index.

        Raises:
            ValueError: the fingerprints differ.
        """
        if model.fingerprint != self.model.fingerprint:
            raise ValueError(
                f'index {self.path} was made by {self.model}, not by {model}; use that '
                f'model, or write another index'
            )

    def __len__(self) -> int:
        return self.db.execute('SELECT count(*) FROM videos').fetchone()[0]

    def sources(self) -> dict[str, Source]:
        """Return the videos in it with what they were embedded from."""
        rows = self.db.execute('SELECT path, size, mtime_ns FROM videos')
        return {path: Source(size, mtime_ns) for path, size, mtime_ns in rows}

    def add(self, sources: dict[str, Source], embeddings: np.ndarray) -> None:
        """Add or replace videos, all of them or, if killed, none.

        Args:
            embeddings: (n, E), float32, of unit norm, in the order of ``sources``.
        """
        rows = [
            (path, *source, row.astype('<f4').tobytes())
            for (path, source), row in zip(sources.items(), embeddings, strict=True)
        ]
        with self.db:
            self.db.executemany(
                'INSERT OR REPLACE INTO videos (path, size, mtime_ns, embedding) '
                'VALUES (?, ?, ?, ?)',
                rows,
            )

    def remove(self, paths: Iterable[str]) -> None:
        """Forget videos."""
        with self.db:
            self.db.executemany(
                'DELETE FROM videos WHERE path = ?', [(path,) for path in paths]
            )

    def merge(self, part: Union[str, os.PathLike]) -> None:
        """Move the videos of another index of the same model here; it is deleted.

        Raises:
            ValueError: another model made it.
        """
        VideoIndex(part, self.model).close()  # which checks it
        self.db.execute('ATTACH ? AS part', (str(part),))
        with self.db:
            self.db.execute(
                'INSERT OR REPLACE INTO videos (path, size, mtime_ns, embedding) '
                'SELECT path, size, mtime_ns, embedding FROM part.videos ORDER BY id'
            )
        self.db.execute('DETACH part')
        Path(part).unlink()

    def load(self) -> tuple[list[str], np.ndarray]:
        """Return the videos and their embeddings (n, E), float32, of unit norm."""
        rows = self.db.execute(
            'SELECT path, embedding FROM videos ORDER BY id'
        ).fetchall()
        vectors = np.frombuffer(b''.join(row for _, row in rows), '<f4')
        return [path for path, _ in rows], vectors.reshape(len(rows), -1 if rows else 0)

    # --- Search ---------------------------------------------------------------------

    def search(
        self, queries: np.ndarray, topk: int = 5, exact: bool = False
    ) -> list[list[Hit]]:
        """Find for each query the videos of largest cosine, best first.

        Args:
            queries: (q, E), float32, of unit norm.
            topk: videos a query, at most.
            exact: compare with every video even if there is an inverted file.

        Raises:
            ImportError: FAISS is not installed.
        """
        if not len(self):
            return [[] for _ in queries]
        paths, index, _ = self._ready(exact)
        scores, found = index.search(queries, min(topk, len(paths)))
        return [
            # An inverted file says -1 where its lists hold fewer than asked for.
            [Hit(paths[i], float(score)) for i, score in zip(*row) if i >= 0]
            for row in zip(found, scores)
        ]

    def _ready(self, exact: bool) -> Searcher:
        """Load what a search needs, once for many queries."""
        state = f'{self._state()} {exact}'
        if self._searcher is None or self._searcher.state != state:
            index = None if exact else self._inverted()
            index = self._flat() if index is None else index
            paths = self.db.execute('SELECT path FROM videos ORDER BY id')
            self._searcher = Searcher([path for (path,) in paths], index, state)
        return self._searcher

    def build_inverted(self, above: int = EXACT) -> bool:
        """Build the inverted file if there are more videos than ``above``.

        Returns:
            whether there is one now.

        Raises:
            ImportError: it is needed and FAISS is not installed.
        """
        if len(self) <= above:
            return False
        if self._inverted() is not None:
            return True
        faiss = _faiss()
        _, vectors = self.load()
        lists = int(4 * len(vectors) ** 0.5)  # FAISS's own advice
        index = faiss.index_factory(
            vectors.shape[1], f'IVF{lists},Flat', faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors)
        index.add(vectors)
        index.nprobe = max(1, int(lists * PROBED))
        part = self._inverted_path.with_suffix('.part')
        faiss.write_index(index, str(part))
        part.replace(self._inverted_path)
        self._searcher = None
        with self.db:
            self.db.execute('DELETE FROM inverted')
            self.db.execute('INSERT INTO inverted VALUES (?)', (self._state(),))
        return True

    @property
    def _inverted_path(self) -> Path:
        return Path(f'{self.path}.faiss')

    def _inverted(self) -> Any:
        """Read the inverted file; None where it is missing or out of date."""
        states = self.db.execute('SELECT state FROM inverted').fetchall()
        if states != [(self._state(),)] or not self._inverted_path.is_file():
            return None
        return _faiss().read_index(str(self._inverted_path))

    def _state(self) -> str:
        """Name the present rows.

        Ids only grow, and while the last one stays rows can only go.
        """
        count = len(self)
        row = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'videos'")
        (last,) = row.fetchone() or (0,)
        return f'{count}/{last}'

    def _flat(self) -> Any:
        _, vectors = self.load()
        index = _faiss().IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"searching needs FAISS ({error}); pip install 'mmstop[search]'"
        ) from None
    return faiss
