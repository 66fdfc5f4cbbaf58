"""Measure an index of many videos: opening, searching, adding and memory.

    python tools/analysis/benchmark_index.py --rows 1000000 --out docs/index.json
    python tools/analysis/benchmark_index.py --rows 100000 --kinds lancedb usearch

The embeddings are synthetic: unit vectors around ROWS / 200 centres. As with CLIP, some
directions matter much more than others: the variances of centres and noise fall as
1 / i, in random order. Queries of kind "video" are drawn in the same way. Queries of
kind "text" have the same amount of isotropic noise added, so that the best cosine is
about 0.55. Every phase runs in its own process, and times are medians. --kinds can also
measure LanceDB and usearch (pip install lancedb usearch).
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mmstop.apis.index import ModelID, Source, VideoIndex

TOPK = 10
BATCH = 10_000  # rows that are written at a time
ADDED = 1000  # rows that are added at the end
QUERIES = 100
REPEATS = 15  # number of exact searches, which are slow
NOISE = 0.8  # scale of a video's noise around its centre
ROWS_A_CENTRE = 200


def draw(folder: Path, num: int, width: int) -> None:
    """Write ``rows.npy`` and the two kinds of queries."""
    rng = np.random.default_rng(0)
    scale = rng.permutation(np.arange(1, width + 1, dtype=np.float32)) ** -0.5
    centres = scale * rng.standard_normal((num // ROWS_A_CENTRE, width), np.float32)

    def videos(n: int) -> np.ndarray:
        noise = NOISE * scale * rng.standard_normal((n, width), np.float32)
        return unit(centres[rng.integers(len(centres), size=n)] + noise)

    rows = np.lib.format.open_memmap(
        folder / 'rows.npy', 'w+', np.float32, (num + ADDED, width)
    )
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        part[:] = videos(len(part))
    near = videos(QUERIES)
    noise = unit(rng.standard_normal((QUERIES, width), np.float32))
    np.savez(folder / 'queries.npz', video=near, text=unit(near + noise))


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale rows to unit norm."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- Contestants: each writes, prepares, opens, searches and adds --------------------


class Mmstop:
    """``VideoIndex``."""

    def __init__(self, folder: Path) -> None:
        self.index = VideoIndex(folder / 'mmstop', ModelID('benchmark', '0' * 64))

    def add(self, start: int, rows: np.ndarray) -> None:
        """Add rows, numbered from ``start`` on."""
        places = range(start, start + len(rows))
        self.index.add({f'/videos/{i}.mp4': Source(1, 1) for i in places}, rows)

    def prepare(self) -> None:
        """Make the approximate search possible."""
        self.index.build_inverted(0)

    def search(self, query: np.ndarray, exact: bool) -> list[int]:
        """Return the numbers of the nearest rows."""
        (hits,) = self.index.search(query[None], TOPK, exact)
        return [int(Path(hit.path).stem) for hit in hits]


class LanceDB:
    """A LanceDB table with an ``IVF_PQ`` index, refined with the rows themselves."""

    def __init__(self, folder: Path) -> None:
        import lancedb
        import pyarrow

        self.pa, self.db = pyarrow, lancedb.connect(folder / 'lancedb')
        names = getattr(self.db.list_tables(), 'tables', None) or []
        self.table: Any = self.db.open_table('rows') if 'rows' in names else None

    def add(self, start: int, rows: np.ndarray) -> None:
        """Add rows, numbered from ``start`` on."""
        flat = self.pa.array(np.ascontiguousarray(rows).ravel())
        vectors = self.pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        places = self.pa.array(range(start, start + len(rows)))
        data = self.pa.table({'id': places, 'vector': vectors})
        if self.table is None:
            self.table = self.db.create_table('rows', data)
        else:
            self.table.add(data)

    def prepare(self) -> None:
        """Make the approximate search possible."""
        from lancedb.index import IvfPq

        width = self.table.schema.field('vector').type.list_size
        self.table.create_index(
            'vector',
            config=IvfPq(
                distance_type='dot',
                num_partitions=max(1, self.table.count_rows() // 1000),
                num_sub_vectors=width // 8,
            ),
        )

    def search(self, query: np.ndarray, exact: bool) -> list[int]:
        """Return the numbers of the nearest rows."""
        search = self.table.search(query).distance_type('dot').limit(TOPK)
        if exact:
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(64).refine_factor(50)
        return [hit['id'] for hit in search.select(['id', '_distance']).to_list()]


class Usearch:
    """A usearch HNSW graph in one file, which is memory-mapped when opened."""

    def __init__(self, folder: Path) -> None:
        from usearch.index import Index

        self.path = folder / 'rows.usearch'
        width = np.load(folder / 'rows.npy', mmap_mode='r').shape[1]
        self.index = Index(ndim=width, metric='ip', dtype='f32')
        if self.path.exists():
            self.index.view(str(self.path))

    def add(self, start: int, rows: np.ndarray) -> None:
        """Add rows, numbered from ``start`` on."""
        if self.path.exists():  # a mapped index cannot be extended
            self.index.load(str(self.path))
            self.path.unlink()
            self.add(start, rows)
            self.prepare()
        else:
            self.index.add(np.arange(start, start + len(rows)), np.array(rows))

    def prepare(self) -> None:
        """Write the whole file."""
        self.index.save(str(self.path))

    def search(self, query: np.ndarray, exact: bool) -> list[int]:
        """Return the numbers of the nearest rows."""
        return self.index.search(query, TOPK, exact=exact).keys.tolist()


KINDS: dict[str, Callable[[Path], Any]] = {
    'mmstop': Mmstop,
    'lancedb': LanceDB,
    'usearch': Usearch,
}


# --- Phases, each in its own process -------------------------------------------------


def alone(phase: Callable[..., dict], *args: Any) -> dict:
    """Run a phase in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(phase, *args).result()


def write(kind: str, folder: Path, num: int) -> dict:
    """Write and prepare an index of ``num`` rows."""
    rows = np.load(folder / 'rows.npy', mmap_mode='r')
    index = KINDS[kind](folder)

    def add_all() -> None:
        for start in range(0, num, BATCH):
            index.add(start, rows[start : min(start + BATCH, num)])

    return {'write_s': seconds(add_all)[0], 'prepare_s': seconds(index.prepare)[0]}


def open_and_search(kind: str, folder: Path, exact: bool, cold: bool) -> dict:
    """Open an index and search once; ``cold`` drops its files from memory first."""
    query = np.load(folder / 'queries.npz')['video'][0]
    if cold:
        for path in filter(Path.is_file, folder.rglob('*')):
            with open(path, 'rb') as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    name = f'open_{"exact" if exact else "fast"}_{"cold" if cold else "warm"}_s'
    return {name: seconds(lambda: KINDS[kind](folder).search(query, exact))[0]}


def search(kind: str, folder: Path, num: int) -> dict:
    """Search exactly and approximately, alternating with one NumPy product."""
    rows = np.load(folder / 'rows.npy', mmap_mode='r')[:num]
    queries = np.load(folder / 'queries.npz')
    before = memory()
    index = KINDS[kind](folder)
    for exact in (True, False):
        index.search(queries['video'][0], exact)
    times: dict[str, list[float]] = {'product_s': [], 'exact_s': []}
    for query in queries['video'][:REPEATS]:
        times['product_s'].append(seconds(rows.__matmul__, query)[0])
        times['exact_s'].append(seconds(index.search, query, True)[0])
    measured = {'memory_mb': memory() - before}
    for name in queries:
        times[f'fast_{name}_s'], recall = [], []
        best = rows @ queries[name].T  # (n, q)
        for query, scores in zip(queries[name], best.T):
            taken, found = seconds(index.search, query, False)
            times[f'fast_{name}_s'].append(taken)
            right = np.argpartition(scores, -TOPK)[-TOPK:]
            recall.append(len(set(found) & set(right.tolist())) / TOPK)
        del best
        measured[f'recall_{name}'] = float(np.mean(recall))
    return {**{name: float(np.median(ts)) for name, ts in times.items()}, **measured}


def add(kind: str, folder: Path, num: int) -> dict:
    """Add some rows to a prepared index and search for one of them."""
    rows = np.load(folder / 'rows.npy', mmap_mode='r')[num:]
    index = KINDS[kind](folder)
    taken, _ = seconds(index.add, num, rows)
    index = KINDS[kind](folder)
    found = index.search(np.array(rows[-1]), False)
    return {'add_1000_s': taken, 'added_is_found': num + ADDED - 1 in found}


def seconds(work: Callable, *args: Any) -> tuple[float, Any]:
    """Return the time that a call takes, and its result."""
    start = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - start, result


def memory() -> float:
    """Return the memory of this process, without mapped files, in MB."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) / 1024
    return float('nan')


def measure(kind: str, folder: Path, num: int) -> dict:
    """Run all phases."""
    results = alone(write, kind, folder, num)
    for exact in (True, False):
        for cold in (True, False):
            results |= alone(open_and_search, kind, folder, exact, cold)
    results |= alone(search, kind, folder, num)
    results |= alone(add, kind, folder, num)
    return results


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rows', type=int, default=1_000_000)
    parser.add_argument('--width', type=int, default=512)
    parser.add_argument('--kinds', nargs='+', choices=list(KINDS), default=['mmstop'])
    parser.add_argument('--folder', help='for some GB of temporary files')
    parser.add_argument('--out', type=Path, help='JSON to write')
    args = parser.parse_args(argv)
    if args.rows < ROWS_A_CENTRE:
        parser.error(f'--rows {args.rows}: it must be at least {ROWS_A_CENTRE}')
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    results: dict[str, Any] = {
        'rows': args.rows,
        'width': args.width,
        'cpus': os.cpu_count(),
    }
    try:
        draw(folder, args.rows, args.width)
        for kind in args.kinds:
            results[kind] = measure(kind, folder, args.rows)
            results['load_average'] = os.getloadavg()[1]
            print(kind, json.dumps(results[kind], indent=2), flush=True)
            if args.out is not None:
                args.out.write_text(json.dumps(results, indent=2) + '\n')
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
