"""The approximate search through many rows: a FAISS inverted file.

Rows are assigned to lists by their nearest centroid, and stored as one byte per eight
dimensions (``IVF,PQ``). A query probes some of the lists, and the best candidates are
compared exactly, using the rows themselves. The inverted file covers the first rows of
a file, which never change. The rows after them are compared one by one until there are
enough of them to be added.
"""

import hashlib
from types import ModuleType
from typing import Any, Optional

import numpy as np

from .embedding_file import Rows

__all__ = ['Inverted', 'digest', 'find_faiss']

CANDIDATES = 1000  # rows per query that are compared exactly
ROWS_A_LIST = 500
SAMPLE = 64  # training rows per centroid
PROBES = 128  # lists that a query probes
FEWEST = 1000  # minimum number of rows; a byte of PQ has 256 values to learn
SEED = 0


class Inverted:
    """The first rows of a file, assigned to lists.

    Args:
        index: the FAISS index.
        trained: number of rows when the centroids were trained.
    """

    def __init__(self, index: Any, trained: int) -> None:
        self.index, self.trained = index, trained
        self.index.nprobe = PROBES

    def __len__(self) -> int:
        return self.index.ntotal

    @classmethod
    def train(cls, rows: Rows) -> 'Inverted':
        """Train the centroids with FAISS, without adding any rows yet."""
        faiss: Any = find_faiss()
        code = f'PQ{rows.width // 8}' if rows.width % 8 == 0 else 'SQ8'
        lists = max(1, len(rows) // ROWS_A_LIST)
        index = faiss.index_factory(
            rows.width, f'IVF{lists},{code}', faiss.METRIC_INNER_PRODUCT
        )
        clusterings = [index.cp]
        if code.startswith('PQ'):
            clusterings.append(index.pq.cp)
            # It takes minutes, for a kind of search that is not used here.
            index.do_polysemous_training = False
        for clustering in clusterings:
            clustering.min_points_per_centroid = 1  # or FAISS prints a warning
            clustering.max_points_per_centroid = SAMPLE
        sample = np.random.default_rng(SEED).choice(
            len(rows), min(len(rows), SAMPLE * max(lists, 256)), replace=False
        )
        index.train(rows.take(np.sort(sample)))
        return cls(index, len(rows))

    @classmethod
    def read(cls, data: bytes, trained: int) -> Optional['Inverted']:
        """Read the output of :meth:`dump`; return None without FAISS."""
        faiss = find_faiss()
        if faiss is None:
            return None
        return cls(faiss.deserialize_index(np.frombuffer(data, np.uint8)), trained)

    def dump(self) -> bytes:
        """Serialise the index with FAISS."""
        faiss: Any = find_faiss()
        return faiss.serialize_index(self.index).tobytes()

    def grow(self, rows: Rows) -> None:
        """Add the rows that are not in the lists yet."""
        for _, block in rows.blocks(len(self)):
            self.index.add(block)

    def candidates(self, queries: np.ndarray) -> list[np.ndarray]:
        """Return for each query the numbers of its candidate rows, unordered."""
        _, found = self.index.search(queries, CANDIDATES)
        return [row[row >= 0] for row in found]  # -1 fills up when there are fewer


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def find_faiss() -> Optional[ModuleType]:
    """Import FAISS if it is installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss
