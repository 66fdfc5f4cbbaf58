"""An append-only file of embeddings, and the search through all of it.

Row ``i`` starts at byte ``4 * E * i``, little-endian float32, and never changes. The
file is memory-mapped, so that a process needs little memory of its own and several
processes share one copy. The index records how many rows are valid. Anything after them
comes from a writer that was killed, and the next writer overwrites it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional, Union

import numpy as np

__all__ = [
    'BLOCK',
    'Rows',
    'append',
    'check_embeddings',
    'rank',
    'without',
]

BLOCK = 65_536  # rows that are compared at a time
TOLERANCE = 1e-3  # for the norm of a unit vector


class Rows:
    """The rows of a file, read-only.

    Args:
        path: path of the file.
        width: ``E``.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        self._file = open(path, 'rb')
        self._rows = np.empty((0, width), '<f4')

    def __len__(self) -> int:
        return len(self._rows)

    def close(self) -> None:
        """Close the file; rows taken from it stay valid."""
        self._file.close()

    def check_queries(self, queries: np.ndarray) -> None:
        """Reject queries that the rows cannot be compared with.

        Raises:
            ValueError: they are not (q, E), or one is not of unit norm.
        """
        if queries.shape[1:] != (self.width,):
            raise ValueError(
                f'got queries of shape {queries.shape}, index {self.path.parent} needs '
                f'(q, {self.width})'
            )
        if (wrong := find_no_unit(queries)) is not None:
            raise ValueError(f'query {wrong} is not a unit vector: {queries[wrong]}')

    def grow(self, num: int) -> None:
        """Map the rows up to ``num``.

        Raises:
            ValueError: the file is shorter than that.
        """
        if num == len(self):
            return
        size = os.fstat(self._file.fileno()).st_size
        if size < 4 * self.width * num:
            raise ValueError(
                f'{self.path} is cut short: {size:,} bytes, expected at least '
                f'{4 * self.width * num:,}; copy the index again or write another one'
            )
        rows = np.memmap(self._file, '<f4', 'r', shape=(num, self.width))
        self._rows = rows.view(np.ndarray)

    def blocks(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks of rows from ``start`` on: their first number, and (b, E)."""
        for first in range(start, len(self), BLOCK):
            yield first, self._rows[first : first + BLOCK]

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Copy the rows with these numbers: (n, E)."""
        return self._rows[numbers]

    def nearest(
        self, queries: np.ndarray, topk: int, holes: np.ndarray, start: int = 0
    ) -> list[np.ndarray]:
        """Find the rows with the largest products, from ``start`` on, unordered.

        Args:
            queries: (q, E).
            topk: maximum number of rows per query.
            holes: numbers of rows to ignore, sorted.
        Returns:
            the numbers of the rows for each query.

        Raises:
            ValueError: a row is not a unit vector, so the file is damaged.
        """
        numbers = [np.empty(0, np.int64)] * len(queries)
        scores = [np.empty(0, np.float32)] * len(queries)
        for first, block in self.blocks(start):
            found = (block @ queries.T).T if len(queries) > 1 else [block @ queries[0]]
            low, high = np.searchsorted(holes, (first, first + len(block)))
            for q, row in enumerate(found):
                if not np.abs(row).max() <= 1 + 3 * TOLERANCE:  # nor is NaN
                    raise ValueError(
                        f'{self.path} is damaged: not all its rows are unit vectors; '
                        f'write another index'
                    )
                row[holes[low:high] - first] = -np.inf
                best = largest(row, topk)
                best = best[row[best] > -np.inf]
                both = np.concatenate([scores[q], row[best]])
                kept = largest(both, topk)
                numbers[q] = np.concatenate([numbers[q], first + best])[kept]
                scores[q] = both[kept]
        return numbers


def largest(values: np.ndarray, num: int) -> np.ndarray:
    """Return the indices of the ``num`` largest values, unordered."""
    if num >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - num)[len(values) - num :]


def without(numbers: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Return the numbers that are not in ``holes``, which must be sorted."""
    places = np.searchsorted(holes, numbers)
    return numbers[np.append(holes, -1)[places] != numbers]


def append(path: Path, start: int, data: Union[bytes, memoryview]) -> None:
    """Write data from byte ``start`` on and flush it to disk.

    Args:
        start: 0 creates the file.

    Raises:
        OSError: the disk is full or the file cannot be written to.
    """
    rest = memoryview(data).cast('B')
    try:
        with open(path, 'r+b' if start else 'w+b', buffering=0) as file:
            file.seek(start)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if not start:  # flush its name too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise OSError(
            f'{path}: {error.strerror}; free some space or fix the disk, and start '
            f'again, no batch is lost'
        ) from None


def rank(
    rows: Rows, query: np.ndarray, numbers: np.ndarray, topk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order rows by their product with a query (E,), largest first.

    The product is computed one row at a time, so that the same row has the same score
    in every search.

    Returns:
        the numbers and scores of at most ``topk`` rows.
    """
    numbers = np.sort(numbers)
    scores = (rows.take(numbers) * query).sum(1)
    best = np.argsort(-scores, kind='stable')[:topk]
    return numbers[best], scores[best]


def find_no_unit(rows: np.ndarray) -> Optional[int]:
    """Return the index of the first of ``rows`` (n, E) that is not a unit vector."""
    wrong = ~(np.abs(np.linalg.norm(rows, axis=1) - 1) <= TOLERANCE)  # NaN is wrong too
    return int(wrong.argmax()) if wrong.any() else None


def check_embeddings(paths: list[str], embeddings: np.ndarray) -> None:
    """Reject embeddings that a search could not compare.

    Raises:
        ValueError: their shape or type is wrong, or one is not of unit norm.
    """
    if embeddings.shape[:1] != (len(paths),) or embeddings.ndim != 2:
        raise ValueError(
            f'got embeddings of shape {embeddings.shape} for {len(paths)} videos, '
            f'expected ({len(paths)}, E)'
        )
    if embeddings.dtype != np.float32:
        raise ValueError(f'got embeddings of {embeddings.dtype}, expected float32')
    if (wrong := find_no_unit(embeddings)) is not None:
        norm = np.linalg.norm(embeddings[wrong])
        raise ValueError(
            f'the embedding of {paths[wrong]} is not a unit vector, its norm is '
            f'{norm:g}'
        )
