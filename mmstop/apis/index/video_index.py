"""Embeddings of many videos in one folder, and the search through them.

The folder holds ``videos.db``, an SQLite file that lists the videos and records what is
valid; ``*.rows``, the embeddings (``embedding_file.py``); and above 100,000 videos
``*.faiss``, with which a search need not compare all of them (``inverted_file.py``). A
batch is one SQLite transaction. Its rows are on disk before they are listed, so a kill
at any moment leaves only whole batches. SQLite's record decides which of the other
files are valid. A search reads a snapshot of the index, even while another process
writes.
"""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from .creation import NAMES, ModelID, Source, make, new_file
from .embedding_file import (
    BLOCK,
    append,
    check_embeddings,
    rank,
    without,
)
from .inverted_file import FEWEST, Inverted, digest, find_faiss
from .snapshots import Moment, Store

__all__ = ['EXACT', 'Hit', 'ModelID', 'Source', 'VideoIndex']

EXACT = 100_000  # up to this many videos, the search is exact
MANY = 100  # above this many hits, it is exact too
TAIL = 0.02  # new rows allowed outside an inverted file, as a fraction of its rows


class Hit(NamedTuple):
    """A video that was found, and its embedding's cosine similarity to the query's."""

    path: str
    score: float


class VideoIndex:
    """The embeddings of some videos by one model, as a folder.

    ``with VideoIndex(path) as index: paths, vectors = index.load()``

    An instance belongs to the thread that opened it. Other threads and processes open
    their own.

    Args:
        path: path of the folder. With ``model`` it is created if it does not exist.
        model: the model that embeds; None to open an existing index.

    Raises:
        FileNotFoundError: there is no such index, and ``model`` is None.
        ValueError: it is not an index, or damaged, or belongs to another model.
        OSError: it cannot be opened.
    """

    def __init__(
        self, path: Union[str, os.PathLike], model: Optional[ModelID] = None
    ) -> None:
        self.path = Path(path)
        if model is not None and not self.path.joinpath(NAMES).exists():
            make(self.path, model)
        self._store = Store(self.path)
        try:
            with self._store.moment() as now:
                self.model = ModelID(*now.one('SELECT name, fingerprint FROM state'))
            if model is not None:
                self.check(model)
        except BaseException:
            self.close()
            raise

    @property
    def db(self) -> Any:
        """The connection to ``videos.db``."""
        return self._store.db

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
        """Close the files; closing twice is not an error."""
        self._store.close()

    def check(self, model: ModelID) -> None:
        """Reject a model that did not make this index.

        Raises:
            ValueError: the fingerprints differ.
        """
        if model.fingerprint != self.model.fingerprint:
            raise ValueError(
                f'index {self.path} was made by {self.model}, not by {model}; use that '
                f'model, or write another index'
            )

    def __len__(self) -> int:
        with self._store.moment() as now:
            return now.num_rows - len(self._store.holes(now))

    def __contains__(self, path: str) -> bool:
        with self._store.moment() as now:
            found = now.db.execute('SELECT 1 FROM videos WHERE path = ?', (path,))
            return found.fetchone() is not None

    def sources(self) -> dict[str, Source]:
        """Return the indexed videos with the file versions that were embedded."""
        with self._store.moment() as now:
            rows = now.db.execute('SELECT path, size, mtime_ns FROM videos')
            return {path: Source(size, mtime_ns) for path, size, mtime_ns in rows}

    def load(self) -> tuple[list[str], np.ndarray]:
        """Return the videos and their embeddings (n, E), float32, of unit norm."""
        with self._store.moment() as now:
            found = now.db.execute('SELECT number, path FROM videos ORDER BY number')
            named = found.fetchall()
            numbers = np.array([number for number, _ in named], np.int64)
            return [path for _, path in named], self._store.rows(now).take(numbers)

    # --- Changes --------------------------------------------------------------------

    def add(self, sources: dict[str, Source], embeddings: np.ndarray) -> None:
        """Add or replace videos; if the process is killed, all or none of them.

        Args:
            embeddings: (n, E), float32, of unit norm, in the order of ``sources``.

        Raises:
            ValueError: the embeddings are invalid, or differ in width from those in the
                index.
            OSError: the disk is full, or another process writes for a whole minute.
        """
        if not sources:
            return
        check_embeddings(list(sources), embeddings)
        with self._store.moment(write=True) as now:
            width = embeddings.shape[1]
            if now.num_rows and width != now.width:
                raise ValueError(
                    f'got embeddings of width {width}, index {self.path} has width '
                    f'{now.width}; write another index'
                )
            now.forget(sources)
            rows = np.ascontiguousarray(embeddings, '<f4')
            append(self.path / now.rows_file, 4 * width * now.num_rows, rows.data)
            now.db.executemany(
                'INSERT INTO videos VALUES (?, ?, ?, ?)',
                [
                    (number, path, *source)
                    for number, (path, source) in enumerate(
                        sources.items(), now.num_rows
                    )
                ],
            )
            num_rows = now.num_rows + len(sources)
            now.update(num_rows=num_rows, width=width)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove videos."""
        with self._store.moment(write=True) as now:
            now.forget(paths)
            now.update()

    def compact(self) -> bool:
        """Rewrite the rows if more than half belong to videos that are gone.

        Returns:
            whether they were rewritten.
        """
        with self._store.moment(write=True) as now:
            # Delete the files that an earlier call left for its concurrent readers.
            for path in self.path.iterdir():
                known = path.name in (now.rows_file, now.inverted_file)
                if path.suffix in ('.rows', '.faiss') and not known:
                    path.unlink()
            if now.num_rows <= 2 * (now.num_rows - len(self._store.holes(now))):
                return False
            numbers = now.numbers('videos')
            rows, file = self._store.rows(now), new_file('rows')
            self.path.joinpath(file).touch()
            for start in range(0, len(numbers), BLOCK):
                part = rows.take(numbers[start : start + BLOCK])
                append(self.path / file, 4 * rows.width * start, part.data)
            now.db.executemany(  # in ascending order, so each new number is free
                'UPDATE videos SET number = ? WHERE number = ?',
                enumerate(numbers.tolist()),
            )
            now.db.execute('DELETE FROM holes')
            changes = dict(rows_file=file, num_rows=len(numbers), inverted_file='')
            now.update(**changes)
            return True

    def build_inverted(self, above: int = EXACT) -> bool:
        """Prepare the approximate search if there are more videos than ``above``.

        An existing inverted file is kept, and extended when many new rows have been
        added. It is rebuilt when the number of rows has doubled. Searching and writing
        can go on meanwhile.

        Args:
            above: number of videos; values below 1,000 count as 1,000.
        Returns:
            whether the approximate search is prepared. Without FAISS it is not, and a
            warning is raised.
        """
        with self._store.moment() as before:
            rows, inverted = self._store.rows(before), self._store.inverted(before)
            if len(rows) - len(self._store.holes(before)) <= max(above, FEWEST):
                return False
        if find_faiss() is None:
            warnings.warn(
                f'FAISS is not installed, so each search compares all {len(rows):,} '
                f"rows of {self.path}; pip install 'mmstop[search]'",
                stacklevel=2,
            )
            return False
        if inverted is None or len(rows) > 2 * inverted.trained:
            inverted = Inverted.train(rows)
        elif len(rows) - len(inverted) <= TAIL * len(inverted):
            return True
        inverted.grow(rows)
        data, file = inverted.dump(), new_file('faiss')
        with self._store.moment(write=True) as now:
            if now.rows_file != before.rows_file:  # compacted meanwhile
                return False
            append(self.path / file, 0, data)
            now.update(
                inverted_file=file,
                inverted_digest=digest(data),
                inverted_trained=inverted.trained,
            )
        return True

    # --- Search ---------------------------------------------------------------------

    def search(
        self, queries: np.ndarray, topk: int = 5, exact: bool = False
    ) -> list[list[Hit]]:
        """Find for each query the videos with the highest cosine, best first.

        Args:
            queries: (q, E), float32, of unit norm.
            topk: maximum number of videos per query; above 100 the search is exact.
            exact: compare with every video even if an approximate search is prepared.

        Raises:
            ValueError: the queries have another width or are not unit vectors, or the
                index is damaged.
        """
        if topk < 1:
            raise ValueError(f'topk={topk}, expected at least 1')
        with self._store.moment() as now:
            rows, holes = self._store.rows(now), self._store.holes(now)
            topk = min(topk, len(rows) - len(holes))
            if topk < 1:
                return [[] for _ in queries]
            rows.check_queries(queries)
            found, start = [np.empty(0, np.int64)] * len(queries), 0
            inverted = None if exact or topk > MANY else self._store.inverted(now)
            if inverted is not None:
                near = [without(n, holes) for n in inverted.candidates(queries)]
                if all(len(numbers) >= 2 * topk for numbers in near):
                    found, start = near, len(inverted)
            behind = rows.nearest(queries, topk, holes, start)
            return [
                _name(now, *rank(rows, query, np.concatenate(numbers), topk))
                for query, *numbers in zip(queries, found, behind)
            ]


def _name(now: Moment, numbers: np.ndarray, scores: np.ndarray) -> list[Hit]:
    query = 'SELECT path FROM videos WHERE number = ?'
    return [
        Hit(now.one(query, number)[0], score)
        for number, score in zip(numbers.tolist(), scores.tolist())
    ]
