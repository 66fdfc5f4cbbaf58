"""The approximate search through many rows: an inverted file of FAISS.

The rows lie in lists by the centre that they are nearest to, each as one byte for eight
dimensions (``IVF,PQ``). A query looks into some of the lists, and what looks best there
is compared exactly, by the rows themselves. It holds for the first rows of a file,
which never change; the rows behind them are compared one by one until there are enough
of them to be sorted in.
"""

import hashlib
from types import ModuleType
from typing import Any, Optional

import numpy as np

from .rows import Rows

__all__ = ['Inverted', 'digest', 'find_faiss']

CANDIDATES = 1000  # rows a query that are compared exactly
ROWS_A_LIST = 500
SAMPLE = 64  # rows a centre from which the centres are found
PROBES = 128  # lists that a query looks into
FEWEST = 1000  # rows; a byte of PQ has 256 values to learn
SEED = 0


class Inverted:
    """The first rows of a file, sorted into lists.

    Args:
        index: of FAISS.
        trained: number of rows there were when the centres were found.
    """

    def __init__(self, index: Any, trained: int) -> None:
        self.index, self.trained = index, trained
        self.index.nprobe = PROBES

    def __len__(self) -> int:
        return self.index.ntotal

    @classmethod
    def train(cls, rows: Rows) -> 'Inverted':
        """Find the centres, with FAISS; no row is sorted in yet."""
        faiss: Any = find_faiss()
        code = f'PQ{rows.width // 8}' if rows.width % 8 == 0 else 'SQ8'
        lists = max(1, len(rows) // ROWS_A_LIST)
        index = faiss.index_factory(
            rows.width, f'IVF{lists},{code}', faiss.METRIC_INNER_PRODUCT
        )
        clusterings = [index.cp]
        if code.startswith('PQ'):
            clusterings.append(index.pq.cp)
            # It takes minutes, for a kind of search that is not done here.
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
        """Read what :meth:`dump` gave; None without FAISS."""
        faiss = find_faiss()
        if faiss is None:
            return None
        return cls(faiss.deserialize_index(np.frombuffer(data, np.uint8)), trained)

    def dump(self) -> bytes:
        """Return it as FAISS writes it."""
        faiss: Any = find_faiss()
        return faiss.serialize_index(self.index).tobytes()

    def grow(self, rows: Rows) -> None:
        """Sort in the rows that came behind."""
        for _, block in rows.blocks(len(self)):
            self.index.add(block)

    def candidates(self, queries: np.ndarray) -> list[np.ndarray]:
        """Return for each query the numbers of rows that look near, in no order."""
        _, found = self.index.search(queries, CANDIDATES)
        return [row[row >= 0] for row in found]  # -1 where the lists hold fewer


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
