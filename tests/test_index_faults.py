"""An index under fire: many at once, kills, full disks, damaged and forged files.

Whatever happens, a search names the videos whose embeddings it compared, or says in one
line what is wrong. Embeddings are made up, so no model takes part.
"""

import errno
import os
import resource
import shutil
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from mmstop.apis import ModelID, VideoIndex
from mmstop.apis.index import Source, embedding_file, snapshots
from mmstop.apis.index.inverted_file import Inverted

ONE = ModelID('one.py', 'a' * 64)
PLACE = Source(1, 2)
WIDTH = 16
fork = get_context('fork')


def vector_of(name):
    """The embedding of a video, which its name alone decides."""
    vector = np.random.default_rng(int(name)).normal(size=WIDTH).astype('f4')
    return vector / np.linalg.norm(vector)


def vectors_of(names):
    return np.stack([vector_of(name) for name in names])


def fill(path, names):
    with VideoIndex(path, ONE) as index:
        names = [str(name) for name in names]
        index.add(dict.fromkeys(names, PLACE), vectors_of(names))
    return path


def assert_right(index, wanted, exact=False, topk=3):
    """Each query is a video's embedding: that is found, and all names are right."""
    wanted = [str(name) for name in wanted]
    queries = vectors_of(wanted)
    for name, query, hits in zip(wanted, queries, index.search(queries, topk, exact)):
        assert hits[0].path == name and len(hits) == topk
        scores = [query @ vector_of(hit.path) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)


# --- Many at once -------------------------------------------------------------------


def test_searches_are_right_while_others_write(tmp_path):
    """Videos are added, embedded anew, removed, compacted and sorted in meanwhile."""
    path = fill(tmp_path / 'x', range(1200))
    done = threading.Event()

    def write():
        with VideoIndex(path, ONE) as index:
            for i in range(30):
                names = [str(2000 + 50 * i + k) for k in range(50)]
                index.add(dict.fromkeys(names, PLACE), vectors_of(names))
                index.add(dict.fromkeys(names[:10], PLACE), vectors_of(names[:10]))
                index.remove(names)
                if i % 5 == 0:
                    index.build_inverted(above=0)
                index.compact()

    def read(seed):
        rng, searches = np.random.default_rng(seed), 0
        with VideoIndex(path) as index:
            while not done.is_set() or searches < 20:
                assert_right(
                    index, rng.integers(1200, size=5), exact=bool(searches % 2)
                )
                assert len(index) >= 1200 and '7' in index
                searches += 1
        return searches

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, seed) for seed in range(2)]
        try:
            pool.submit(write).result()
        finally:
            done.set()
        assert all(reader.result() >= 20 for reader in readers)
    with VideoIndex(path) as index:
        assert sorted(index.load()[0], key=int) == [str(i) for i in range(1200)]
        assert_right(index, range(0, 1200, 50))


def test_rows_that_come_while_it_sorts_are_found_too(tmp_path, monkeypatch):
    path, grow = fill(tmp_path / 'x', range(1200)), Inverted.grow

    def slow(inverted, mapped):
        grow(inverted, mapped)
        with VideoIndex(path) as other:
            other.remove(['0'])
        fill(path, [*range(1, 300), *range(5000, 5010)])

    monkeypatch.setattr(Inverted, 'grow', slow)
    with VideoIndex(path) as index:
        assert index.build_inverted(above=0)
        assert index._store.inverted is not None
        for exact in (False, True):
            assert_right(index, [*range(1, 1200, 6), *range(5000, 5010)], exact)
        assert index.search(vectors_of(['0']))[0][0].path != '0'


def test_compacting_while_it_sorts_wins(tmp_path, monkeypatch):
    path, grow = fill(tmp_path / 'x', range(3000)), Inverted.grow

    def slow(inverted, mapped):
        grow(inverted, mapped)
        with VideoIndex(path) as other:
            other.remove(str(i) for i in range(1900))
            assert other.compact()

    monkeypatch.setattr(Inverted, 'grow', slow)
    with VideoIndex(path) as index:
        assert not index.build_inverted(above=0)
        assert_right(index, range(1900, 3000, 20))


def test_compacting_keeps_what_is_there(tmp_path):
    path = fill(tmp_path / 'x', range(100))
    with VideoIndex(path) as index, VideoIndex(path) as other:
        index.remove(str(i) for i in range(50))
        assert not index.compact()  # half may be holes
        index.remove(['50'])
        assert_right(other, range(51, 100))
        assert index.compact() and len(list(path.glob('*.rows'))) == 2
        assert not index.compact() and len(list(path.glob('*.rows'))) == 1
        for each in (index, other):
            assert each.load()[0] == [str(i) for i in range(51, 100)]
            assert_right(each, range(51, 100))
        index.remove(other.sources())
        assert index.compact() and len(index) == 0
        assert other.search(vectors_of(['1'])) == [[]]
        fill(path, range(9))
        assert_right(other, range(9))


def test_nobody_waits_for_a_reader_nor_a_reader_for_anybody(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, 'PATIENCE', 0)
    path = fill(tmp_path / 'x', range(50))
    with VideoIndex(path) as reader, VideoIndex(path) as writer:
        reader.db.execute('BEGIN')
        assert reader.db.execute('SELECT path FROM videos').fetchone()
        fill(path, range(50, 60))  # while a reader is half through
        reader.db.execute('COMMIT')
        writer.db.execute('BEGIN IMMEDIATE')
        writer.db.execute("DELETE FROM videos WHERE path = '7'")
        assert_right(reader, range(60))
        remedy = r'x: database is locked: another process has been writing .* wait'
        with pytest.raises(OSError, match=remedy):
            reader.remove(['7'])
        writer.db.execute('ROLLBACK')
        reader.remove(['7'])


def add_some(path, start, die):
    """In a process of its own: twenty batches; ``die`` amid the writing of the last."""
    with VideoIndex(path, ONE) as index:
        for i in range(20):
            if die and i == 19:
                embedding_file.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            names = [str(start + 5 * i + k) for k in range(5)]
            index.add(dict.fromkeys(names, PLACE), vectors_of(names))


def test_processes_write_at_once_and_a_killed_one_loses_its_batch(tmp_path):
    path = tmp_path / 'x'
    writers = [
        fork.Process(target=add_some, args=(path, 100 * i, i == 1)) for i in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, -signal.SIGKILL, 0]
    kept = [i for i in range(300) if not 195 <= i < 200]
    with VideoIndex(path, ONE) as index:
        assert sorted(map(int, index.load()[0])) == kept
        assert_right(index, kept)
    fill(path, range(195, 200))  # over what the dead one left behind
    with VideoIndex(path) as index:
        assert_right(index, range(300))
        np.testing.assert_array_equal(index.load()[1], vectors_of(index.load()[0]))


def test_a_kill_while_it_is_made_leaves_none(tmp_path):
    def die():
        embedding_file.os.rename = snapshots.os.rename = None
        sqlite3.connect = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        VideoIndex(tmp_path / 'x', ONE)

    process = fork.Process(target=die)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / 'x').exists()
    fill(tmp_path / 'x', range(3))


# --- What is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda v: v * 2, 'embedding of 7 is not a unit vector, its norm is 2'),
        (lambda v: v * 0, 'embedding of 7 is not a unit vector, its norm is 0'),
        (lambda v: v + np.float32(np.nan), '7 is not a unit vector, its norm is nan'),
        (lambda v: v + np.float32(np.inf), '7 is not a unit vector, its norm is inf'),
        (lambda v: v.astype('f8'), 'embeddings of float64, expected float32'),
        (lambda v: v[0], r'of shape \(16,\) for 1 videos, expected \(1, E\)'),
        (lambda v: v[:0], r'of shape \(0, 16\) for 1 videos, expected \(1, E\)'),
        (
            lambda v: v[:, :1] / abs(v[:, :1]),
            'of width 1, .*x has width 16; write',
        ),
    ],
)
def test_add_refuses(tmp_path, change, match):
    with VideoIndex(fill(tmp_path / 'x', range(5))) as index:
        with pytest.raises(ValueError, match=match):
            index.add({'7': PLACE}, change(vectors_of(['7'])))
        assert len(index) == 5
        assert_right(index, range(5))


def test_search_refuses(tmp_path):
    with VideoIndex(fill(tmp_path / 'x', range(5))) as index:
        for query, match in (
            (np.ones((1, 4), 'f4'), r'of shape \(1, 4\), index .*x needs \(q, 16\)'),
            (vector_of('1'), r'of shape \(16,\)'),
            (vectors_of(['1', '2']) * [[1], [np.nan]], 'query 1 is not a unit vector'),
        ):
            with pytest.raises(ValueError, match=match):
                index.search(query)
        with pytest.raises(ValueError, match='topk=0, expected at least 1'):
            index.search(vectors_of(['1']), topk=0)


# --- Damage and forgery -------------------------------------------------------------


@pytest.mark.parametrize('fault', ['forged', 'cut', 'missing', 'stale'])
def test_an_inverted_file_is_the_one_that_was_written_or_none(tmp_path, fault):
    path = fill(tmp_path / 'x', range(1100))
    other = fill(tmp_path / 'other', range(1100, 2200))
    for each in (path, other):
        with VideoIndex(each) as index:
            assert index.build_inverted(above=0)
    (file,), (others,) = path.glob('*.faiss'), other.glob('*.faiss')
    if fault == 'missing':
        file.unlink()
    elif fault == 'cut':
        os.truncate(file, file.stat().st_size - 9)
    elif fault == 'stale':
        shutil.copy(others, file)
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with VideoIndex(path) as index:
        with pytest.warns(
            UserWarning, match='faiss is not used .* all rows; mmstop emb'
        ):
            assert_right(index, range(0, 1100, 10))
        assert index.build_inverted(above=0)
        assert index._store.inverted is not None
        assert_right(index, range(0, 1100, 10))


@pytest.mark.parametrize(
    'damage, match',
    [
        (
            lambda rows, _: os.truncate(rows, 100),
            r'is cut short: 100 bytes, .* 640; copy',
        ),
        (lambda rows, _: rows.unlink(), 'No such file'),
        (
            lambda rows, _: rows.write_bytes(np.full(160, np.nan, '<f4').tobytes()),
            'is damaged: not all its rows are unit vectors; write another',
        ),
        (
            lambda _, names: names.write_bytes(b'no data base' * 99),
            'not an index .* not a da',
        ),
        (
            lambda _, names: os.truncate(names, 5000),
            'not an index written by mmstop .* malformed',
        ),
        (lambda _, names: names.unlink(), 'x is not an index written by mmstop embed'),
        ("UPDATE state SET rows_file = '../y'", "'../y' is not a plain file name"),
        ('DELETE FROM state', 'or it is damaged .it has no state.; write another'),
        ('DROP TABLE holes', 'or it is damaged|no such table'),
        ('DELETE FROM videos; DELETE FROM holes', 'it is damaged ..*finds nothing'),
        (
            'PRAGMA user_version = 9',
            'has format 9, this version of mmstop reads 2; use',
        ),
    ],
)
def test_damage_is_told_in_one_line(tmp_path, damage, match):
    path = fill(tmp_path / 'x', range(10))
    if isinstance(damage, str):
        db = sqlite3.connect(path / 'videos.db')
        db.executescript(damage)
        db.close()
    else:
        damage(next(path.glob('*.rows')), path / 'videos.db')
    with pytest.raises((ValueError, OSError), match=match) as caught:
        with VideoIndex(path) as index:
            index.search(vectors_of(['3']))
    assert '\n' not in str(caught.value) and str(path) in str(caught.value)


# --- Disks --------------------------------------------------------------------------


@pytest.mark.parametrize('limit', [100, 4096, 20_000])
def test_a_full_disk_costs_the_batch(tmp_path, limit):
    """No file may grow beyond the limit, the rows first or SQLite's log first."""
    path = fill(tmp_path / 'x', range(10))
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    more = [str(i) for i in range(10, 400)]
    with VideoIndex(path) as index:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match='x.*start again, no batch is lost'):
                index.add(dict.fromkeys(more, PLACE), vectors_of(more))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
        assert len(index) == 10
        assert_right(index, range(10))
    fill(path, more)
    with VideoIndex(path) as index:
        assert_right(index, range(400))


def test_sqlite_full(tmp_path):
    with VideoIndex(fill(tmp_path / 'x', range(10))) as index:
        index.db.execute('PRAGMA max_page_count = 1')
        more = [str(i) for i in range(10, 3000)]
        with pytest.raises(OSError, match='x: database or disk is full: .* free some'):
            index.add(dict.fromkeys(more, PLACE), vectors_of(more))
        assert len(index) == 10


def test_a_failing_disk_names_the_file(tmp_path, monkeypatch):
    path = fill(tmp_path / 'x', range(3))

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embedding_file.os, 'fsync', fail)
    with pytest.raises(OSError, match=r'\.rows: No space left on device; free some'):
        fill(path, range(3, 6))


def test_a_folder_that_cannot_be_written_to_is_searched(tmp_path, monkeypatch):
    path = fill(tmp_path / 'x', range(20))
    monkeypatch.setattr(snapshots.os, 'access', lambda *_: False)
    with VideoIndex(path) as index:
        assert not list(path.glob('*-wal'))
        assert_right(index, range(20))
        with pytest.raises(
            OSError, match='x: attempt to write a readonly database: it'
        ):
            index.remove(['3'])
        # Somebody else may write to it.

        def write(names):
            with monkeypatch.context() as patch:
                patch.setattr(snapshots.os, 'access', lambda *_: True)
                fill(path, names)

        write(range(20, 30))
        assert_right(index, range(30))

        def write_amid(self, now):
            write(range(30, 40))
            return holes(self, now)

        holes = snapshots.Store.holes
        monkeypatch.setattr(snapshots.Store, 'holes', write_amid)
        with pytest.raises(OSError, match='x changed while it was read; try again'):
            index.search(vectors_of(['3']))
