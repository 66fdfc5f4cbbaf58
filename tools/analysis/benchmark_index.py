"""Measure an index of many videos: opening, searching, adding and memory.

    python tools/analysis/benchmark_index.py --rows 1000000 --out docs/index.json
    python tools/analysis/benchmark_index.py --rows 100000 --kinds lancedb usearch

The embeddings are synthetic: unit vectors around ROWS / 200 centres. As with CLIP, some
directions matter much more than others: the variances of centres and noise fall as
1 / i, in random order. Queries of kind "video" are drawn in the same way. Queries of
kind "text" have the same amount of isotropic noise added, so that the best cosine is
about 0.55. Every phase runs in its own process, and times are medians. --kinds can also
measure LanceDB, searched exactly, and usearch (pip install lancedb usearch).
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional

import numpy as np
from measuring import alone, positive, resident_mb, timed

from mmstop.apis.index import ModelID, Source, VideoIndex

WIDTH = 512
TOPK = 10
BATCH = 10_000  # rows that are written at a time
ADDED = 1000  # rows that are added at the end
QUERIES = 100
REPEATS = 15  # number of exact searches, which are slow
NOISE = 0.8  # scale of a video's noise around its centre
ROWS_A_CENTRE = 200


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rows', type=positive, default=1_000_000)
    parser.add_argument('--kinds', nargs='+', choices=list(KINDS), default=['mmstop'])
    parser.add_argument('--out', type=Path, help='JSON to write')
    args = parser.parse_args(argv)
    found: dict[str, Any] = dict(rows=args.rows, width=WIDTH, cpus=os.cpu_count())
    with TemporaryDirectory() as folder:
        draw(Path(folder), args.rows)
        for kind in args.kinds:
            found[kind] = {}
            for phase, detail in (
                (write, args.rows),
                (open_cold, True),
                (open_cold, False),
                (search, args.rows),
                (add, args.rows),
            ):
                found[kind] |= alone(phase, kind, Path(folder), detail)
            found['load_average'] = os.getloadavg()[1]
            print(kind, json.dumps(found[kind], indent=2), flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + '\n')


def draw(folder: Path, num: int) -> None:
    """Write ``rows.npy`` and the two kinds of queries."""
    rng = np.random.default_rng(0)
    scale = rng.permutation(np.arange(1, WIDTH + 1, dtype=np.float32)) ** -0.5
    centres = scale * rng.standard_normal((1 + num // ROWS_A_CENTRE, WIDTH), np.float32)

    def videos(n: int) -> np.ndarray:
        noise = NOISE * scale * rng.standard_normal((n, WIDTH), np.float32)
        return unit(centres[rng.integers(len(centres), size=n)] + noise)

    rows = np.lib.format.open_memmap(
        folder / 'rows.npy', 'w+', np.float32, (num + ADDED, WIDTH)
    )
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        part[:] = videos(len(part))
    near = videos(QUERIES)
    noise = unit(rng.standard_normal((QUERIES, WIDTH), np.float32))
    np.savez(folder / 'queries.npz', video=near, text=unit(near + noise))


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale rows to unit norm."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- Contestants: each adds numbered rows, prepares the fast search, and searches ----


class Mmstop:
    """``VideoIndex``."""

    def __init__(self, folder: Path) -> None:
        self.index = VideoIndex(folder / 'mmstop', ModelID('benchmark', '0' * 64))

    def add(self, start: int, rows: np.ndarray) -> None:
        places = range(start, start + len(rows))
        self.index.add({f'/videos/{i}.mp4': Source(1, 1) for i in places}, rows)

    def prepare(self) -> None:
        self.index.build_inverted(0)

    def search(self, query: np.ndarray, exact: bool) -> list[int]:
        (hits,) = self.index.search(query[None], TOPK, exact)
        return [int(Path(hit.path).stem) for hit in hits]


class LanceDB:
    """A LanceDB table without an approximate index."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        self.db = lancedb.connect(folder / 'lancedb')

    def add(self, start: int, rows: np.ndarray) -> None:
        import pyarrow

        flat = pyarrow.array(np.ascontiguousarray(rows).ravel())
        vectors = pyarrow.FixedSizeListArray.from_arrays(flat, WIDTH)
        places = pyarrow.array(range(start, start + len(rows)))
        data = pyarrow.table({'id': places, 'vector': vectors})
        self.db.create_table('rows', schema=data.schema, exist_ok=True).add(data)

    def prepare(self) -> None:
        """Leave the rows as they are."""

    def search(self, query: np.ndarray, exact: bool) -> list[int]:
        search = self.db.open_table('rows').search(query).distance_type('dot')
        hits = search.limit(TOPK).select(['id', '_distance']).to_list()
        return [hit['id'] for hit in hits]


class Usearch:
    """A usearch HNSW graph in one file, which is memory-mapped when opened."""

    def __init__(self, folder: Path) -> None:
        from usearch.index import Index

        self.path = folder / 'rows.usearch'
        self.index = Index(ndim=WIDTH, metric='ip', dtype='f32')
        if self.path.exists():
            self.index.view(str(self.path))

    def add(self, start: int, rows: np.ndarray) -> None:
        extends = self.path.exists()
        if extends:  # a mapped index cannot be extended
            self.index.load(str(self.path))
            self.path.unlink()
        self.index.add(np.arange(start, start + len(rows)), np.array(rows))
        if extends:
            self.prepare()

    def prepare(self) -> None:
        self.index.save(str(self.path))

    def search(self, query: np.ndarray, exact: bool) -> list[int]:
        return self.index.search(query, TOPK, exact=exact).keys.tolist()


KINDS: dict[str, Callable[[Path], Any]] = {
    'mmstop': Mmstop,
    'lancedb': LanceDB,
    'usearch': Usearch,
}


# --- Phases, each in its own process -------------------------------------------------


def write(kind: str, folder: Path, num: int) -> dict:
    """Write and prepare an index of ``num`` rows."""
    rows = np.load(folder / 'rows.npy', mmap_mode='r')
    index = KINDS[kind](folder)

    def add_all() -> None:
        for start in range(0, num, BATCH):
            index.add(start, rows[start : min(start + BATCH, num)])

    return {'write_s': timed(add_all)[0], 'prepare_s': timed(index.prepare)[0]}


def open_cold(kind: str, folder: Path, exact: bool) -> dict:
    """Drop an index's files from memory, open it and search once."""
    query = np.load(folder / 'queries.npz')['video'][0]
    for path in filter(Path.is_file, folder.rglob('*')):
        with open(path, 'rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    taken, _ = timed(lambda: KINDS[kind](folder).search(query, exact))
    return {f'open_{"exact" if exact else "fast"}_cold_s': taken}


def search(kind: str, folder: Path, num: int) -> dict:
    """Search exactly and approximately, alternating with one NumPy product."""
    rows = np.load(folder / 'rows.npy', mmap_mode='r')[:num]
    queries = np.load(folder / 'queries.npz')
    before = resident_mb('RssAnon')  # without mapped files
    index = KINDS[kind](folder)
    for exact in (True, False):
        index.search(queries['video'][0], exact)
    times: dict[str, list[float]] = {'product_s': [], 'exact_s': []}
    for query in queries['video'][:REPEATS]:
        times['product_s'].append(timed(rows.__matmul__, query)[0])
        times['exact_s'].append(timed(index.search, query, True)[0])
    measured = {'memory_mb': resident_mb('RssAnon') - before}
    for name in queries:
        times[f'fast_{name}_s'], recall = [], []
        best = rows @ queries[name].T  # (n, q)
        for query, scores in zip(queries[name], best.T):
            taken, found = timed(index.search, query, False)
            times[f'fast_{name}_s'].append(taken)
            right = np.argpartition(scores, -TOPK)[-TOPK:]
            recall.append(len(set(found) & set(right.tolist())) / TOPK)
        del best
        measured[f'recall_{name}'] = float(np.mean(recall))
    return {**{name: float(np.median(ts)) for name, ts in times.items()}, **measured}


def add(kind: str, folder: Path, num: int) -> dict:
    """Add some rows to a prepared index and search for one of them."""
    rows = np.load(folder / 'rows.npy', mmap_mode='r')[num:]
    taken, _ = timed(KINDS[kind](folder).add, num, rows)
    found = KINDS[kind](folder).search(np.array(rows[-1]), False)
    return {'add_1000_s': taken, 'added_is_found': num + ADDED - 1 in found}


if __name__ == '__main__':
    main()
