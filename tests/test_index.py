"""Indices of many videos: what is embedded when, what survives a kill, what is found.

The packaged CLIP embeds Moving Shapes, one video of every shape and colour; it knows
colour, shape and place, and no motion.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import benchmark_index
import drawing
import moving_shapes as shapes
import numpy as np
import pytest
from tiny_run import environment

from mmstop.apis import ModelID, VideoCLIP, VideoIndex, update_index
from mmstop.apis.index import Source, inverted_file
from mmstop.apis.index.inverted_file import Inverted

ARCH = ('ViT-moving-shapes', 'mmstop', 6)
ONE, OTHER = ModelID('one.py', 'a' * 64), ModelID('other.py', 'b' * 64)
PLACE = Source(1, 2)


@pytest.fixture(scope='module')
def clip():
    return VideoCLIP.from_clip(*ARCH, device='cpu')


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """A folder with ``red_circle.mp4`` and 47 others."""
    folder = tmp_path_factory.mktemp('videos')
    for s, shape in enumerate(drawing.SHAPES):
        for c, colour in enumerate(drawing.COLOURS):
            index = 8 * s + c
            scene, rng = shapes.scene_of(0, 'index', index, (s, c), index % 9)
            path = folder / f'{colour}_{shape}.mp4'
            shapes.encode(path, drawing.render_clip(scene, rng))
    return folder


@pytest.fixture(scope='module')
def written(clip, videos, tmp_path_factory):
    """An index that nothing disturbed."""
    out = tmp_path_factory.mktemp('index') / 'all.index'
    update = update_index(clip, videos, out, batch_size=7, num_workers=1)
    assert update == (48, 48, 0, {})
    return out


@pytest.fixture
def few(videos, tmp_path):
    """A folder of its own with nine of the videos."""
    folder = tmp_path / 'few'
    folder.mkdir()
    for path in sorted(videos.iterdir())[:9]:
        shutil.copy(path, folder)
    return folder


def contents(path):
    with VideoIndex(path) as index:
        paths, vectors = index.load()
    return dict(zip(paths, vectors, strict=True))


def assert_same(one, other):
    one, other = contents(one), contents(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], atol=1e-6)


def test_holds_what_encode_video_gives(clip, videos, written):
    found = contents(written)
    assert [Path(path) for path in found] == sorted(videos.iterdir())
    rows = clip.encode_video(list(found))
    np.testing.assert_allclose(list(found.values()), rows, atol=1e-6)


def test_finds_colours_and_shapes(clip, written):
    """By 48 captions, of which chance would get one right, and six the colour."""
    right, colour = 0, 0
    with VideoIndex(written) as index:
        for path in index.sources():
            kind = Path(path).stem.split('_')
            (hit,) = clip.search(f'a {" ".join(kind)}', index, topk=1)
            found = Path(hit.path).stem.split('_')
            right, colour = right + (found == kind), colour + (found[0] == kind[0])
    assert right >= 30 and colour >= 42


def test_search_is_that_of_a_loop(clip, written):
    paths, query = contents(written), clip.encode_text('a red circle')[0]
    scores = {path: float(vector @ query) for path, vector in paths.items()}
    best = sorted(scores, key=scores.get, reverse=True)[:4]
    hits = clip.search('a red circle', written, topk=4)
    assert [hit.path for hit in hits] == best
    np.testing.assert_allclose([h.score for h in hits], [scores[p] for p in best], 1e-5)
    assert len(clip.search('a red circle', written, topk=100)) == 48


def test_embeds_what_is_new_or_changed_and_forgets_what_is_gone(clip, few, tmp_path):
    out, elsewhere = tmp_path / 'sub' / 'few.index', tmp_path / 'elsewhere.mp4'
    a, b, c, *_ = sorted(few.iterdir())
    shutil.copy(a, elsewhere)
    assert update_index(clip, [few, elsewhere], out) == (10, 10, 0, {})
    assert update_index(clip, few, out) == (10, 0, 0, {})
    before = contents(out)
    shutil.copy(b, a)  # changed
    b.unlink()  # gone
    shutil.copy(c, few / 'new.mp4')
    elsewhere.unlink()  # from no folder that was asked for
    c.write_bytes(b'no video')
    update = update_index(clip, few, out)
    assert update[:3] == (9, 2, 1) and list(update.errors) == [str(c)]
    after = contents(out)
    gone, new = {str(b), str(c)}, {str(few / 'new.mp4')}
    assert after.keys() == before.keys() - gone | new
    np.testing.assert_allclose(after[str(a)], before[str(b)], atol=1e-6)
    np.testing.assert_allclose(after[str(few / 'new.mp4')], before[str(c)], atol=1e-6)
    os.utime(a, ns=(1, 1))  # another time counts as another file
    assert update_index(clip, a, out)[:3] == (9, 1, 0)


def test_however_a_folder_is_spelled_it_is_the_same(clip, few, tmp_path, monkeypatch):
    out, (a, *others) = tmp_path / 'x.index', sorted(few.iterdir())
    monkeypatch.chdir(tmp_path)
    assert update_index(clip, few, out)[:3] == (9, 9, 0)
    assert update_index(clip, f'{few}/../few', out)[:3] == (9, 0, 0)
    a.unlink()
    assert update_index(clip, 'few/../few/', out)[:3] == (8, 0, 1)
    for path in others:
        path.unlink()
    assert update_index(clip, 'few/.', out) == (0, 0, 8, {})
    with pytest.raises(FileNotFoundError, match="few/.' is a folder without a video"):
        update_index(clip, 'few/.', out)  # of which nothing was known
    with pytest.raises(FileNotFoundError, match='without a video'):
        update_index(clip, 'few', 'other.index')
    assert not (tmp_path / 'other.index').exists()


def test_files_that_no_index_can_hold_are_reported(clip, few, tmp_path, monkeypatch):
    """A name that is not UTF-8, a file that goes, an embedding of NaN."""
    out, (a, b, c, *_) = tmp_path / 'x.index', sorted(few.iterdir())
    strange = os.path.join(os.fsencode(few), b'caf\xe9.mp4')
    shutil.copy(a, strange)
    stream, of = VideoCLIP.stream, Source.of

    def broken(self, paths, *args):
        for batch in stream(self, paths, *args):
            read = [paths[i] for i in batch.indices]
            if str(b) in read:
                batch.clips[read.index(str(b))] = np.nan
            yield batch

    def gone(path):
        if str(path) == str(c):
            raise FileNotFoundError(2, 'No such file or directory')
        return of(path)

    monkeypatch.setattr(VideoCLIP, 'stream', broken)
    monkeypatch.setattr(Source, 'of', gone)
    update = update_index(clip, few, out)
    assert update[:3] == (7, 7, 0)
    assert update.errors == {
        os.fsdecode(strange): 'its name is not UTF-8; rename it',
        str(c): 'No such file or directory',
        str(b): 'the model gives no finite embedding for it',
    }


KILLED = """
import os, signal, sys
from mmstop.apis import VideoCLIP, VideoIndex, update_index

class Index(VideoIndex):
    batches = 0
    def add(self, sources, embeddings):
        Index.batches += 1
        if Index.batches == 3:  # with the transaction open
            self.db.set_trace_callback(
                lambda sql: sql == 'COMMIT' and os.kill(os.getpid(), signal.SIGKILL))
        super().add(sources, embeddings)

import mmstop.apis.index_update as embedding
embedding.VideoIndex = Index
folder, out, arch, weights, frames = sys.argv[1:]
clip = VideoCLIP.from_clip(arch, weights, int(frames), device='cpu')
update_index(clip, folder, out, batch_size=2)
"""


def test_a_kill_loses_one_batch(clip, few, tmp_path):
    out, undisturbed = tmp_path / 'killed.index', tmp_path / 'undisturbed.index'
    command = [sys.executable, '-c', KILLED, few, out, *ARCH]
    killed = subprocess.run([str(part) for part in command], env=environment())
    assert killed.returncode == -signal.SIGKILL
    with VideoIndex(out) as index:
        assert len(index) == 4
    assert update_index(clip, few, out) == (9, 5, 0, {})
    update_index(clip, few, undisturbed)
    assert_same(out, undisturbed)


def embed_in_two(videos, out):
    """Run the command in two processes."""
    launch = '-m torch.distributed.run --standalone --nproc_per_node 2 -m mmstop embed'
    options = '--arch {} --weights {} --num-frames {} --device cpu --json'
    command = [sys.executable, *launch.split(), videos, '--out', out]
    command += options.format(*ARCH).split()
    return subprocess.run(
        [str(part) for part in command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_fault_of_the_first_process_ends_both(clip, few, tmp_path):
    """The rows cannot be written; the second process does not wait for the first."""
    out = tmp_path / 'x.index'
    VideoIndex(out, clip.identity).close()
    (rows,) = out.glob('*.rows')
    rows.unlink()
    rows.mkdir()
    done = embed_in_two(few, out)
    assert done.returncode != 0 and done.stdout == ''
    told = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    # The launcher may end the second before it says the same.
    assert told and all(f'{rows}: Is a directory' in line for line in told)


@pytest.mark.slow
def test_processes_share_the_work(clip, few, videos, written, tmp_path):
    """Two processes; one video is known from a run that was killed."""
    out = tmp_path / 'shared.index'
    first = str(sorted(videos.iterdir())[0])
    with VideoIndex(out, clip.identity) as index:
        index.add({first: Source.of(first)}, clip.encode_video(first))
    done = embed_in_two(videos, out)
    assert done.returncode == 0, done.stderr
    assert '"videos": 48, "embedded": 47, "forgotten": 0' in done.stdout
    assert done.stdout.count('\n') == 1
    assert_same(out, written)
    assert not list(tmp_path.glob('*.part*'))


def make_vectors(num, width=32, seed=0):
    """Unit vectors around 200 centres, as the embeddings of real videos cluster."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(200, width))
    vectors = centres[rng.integers(200, size=num)] + rng.normal(size=(num, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype('f4')


def names(hits):
    return [[hit.path for hit in row] for row in hits]


@pytest.mark.parametrize('width', [32, 30])  # 30 is no multiple of PQ's 8
def test_inverted_file_agrees_with_exact_search(tmp_path, monkeypatch, width):
    """It looks into 4 lists of 10 and compares 200 of 5,000 rows exactly."""
    monkeypatch.setattr(inverted_file, 'PROBES', 4)
    monkeypatch.setattr(inverted_file, 'CANDIDATES', 200)
    vectors = make_vectors(5000, width)
    queries = make_vectors(100, width, seed=1)
    with VideoIndex(tmp_path / 'many.index', ONE) as index:
        index.add({f'{i:04d}': PLACE for i in range(5000)}, vectors)
        assert not index.build_inverted(above=5000)
        exact = index.search(queries, topk=10)
        scores = queries @ vectors.T
        best = np.argsort(-scores, 1, kind='stable')[:, :10]
        assert names(exact) == [[f'{i:04d}' for i in row] for row in best]
        np.testing.assert_allclose(
            [[hit.score for hit in row] for row in exact],
            np.take_along_axis(scores, best, 1),
            atol=1e-6,
        )
        assert index.build_inverted(above=4999)
        fast = index.search(queries, topk=10)
        assert exact == index.search(queries, topk=10, exact=True)
        assert fast != exact  # or it was the exact one that answered
        assert np.mean([f[0] == e[0] for f, e in zip(fast, exact)]) >= 0.8
        both = [len(set(f) & set(e)) for f, e in zip(fast, exact)]
        assert np.mean(both) >= 7
    with VideoIndex(tmp_path / 'many.index', ONE) as index:
        assert index.search(queries, topk=10) == fast
        # What came behind it is compared exactly, and what went is not found.
        index.add({'new': PLACE}, queries[:1])
        (hit, *_), *_ = index.search(queries[:1], topk=1)
        assert hit[0] == 'new' and hit[1] == pytest.approx(1, abs=1e-6)
        index.remove(['new'])
        assert index.search(queries, topk=10) == fast
        assert len(index.search(queries[:1], topk=4000)[0]) == 4000
        gone = {path for row in names(exact) for path in row}
        index.remove(gone)
        left = [hit.path for row in index.search(queries, topk=10) for hit in row]
        assert len(left) == 1000 and not gone & set(left)


def test_inverted_file_takes_in_what_comes_behind(tmp_path, monkeypatch):
    """It is made anew only when there are twice as many rows."""
    train, trained = Inverted.train, []
    monkeypatch.setattr(
        Inverted,
        'train',
        classmethod(lambda _, rows: trained.append(len(rows)) or train(rows)),
    )
    vectors = make_vectors(5000)

    def covered(index):
        with index._store.moment() as now:
            return len(index._store.inverted(now))

    with VideoIndex(tmp_path / 'many.index', ONE) as index:
        for start, end, known in (
            (0, 2000, 2000),
            (2000, 2040, 2000),
            (2040, 2041, 2041),
        ):
            sources = {f'{i:04d}': PLACE for i in range(start, end)}
            index.add(sources, vectors[start:end])
            assert index.build_inverted(above=0)
            assert covered(index) == known and trained == [2000]
        index.add({f'{i:04d}': PLACE for i in range(2041, 5000)}, vectors[2041:])
        assert index.build_inverted(above=0)
        assert covered(index) == 5000 and trained == [2000, 5000]


@pytest.mark.slow
def test_benchmark(tmp_path, monkeypatch):
    """All its phases, in this process; the product is the oracle of its recall."""
    monkeypatch.setattr(benchmark_index, 'alone', lambda phase, *args: phase(*args))
    out = tmp_path / 'index.json'
    benchmark_index.main(['--rows', '1500', '--out', str(out)])
    found = json.loads(out.read_text())['mmstop']
    assert found['recall_video'] > 0.9 and found['recall_text'] > 0.9
    assert found['added_is_found'] and found['memory_mb'] < 500
    times = [value for name, value in found.items() if name.endswith('_s')]
    assert len(times) == 9 and all(0 < value < 600 for value in times)
    assert list(tmp_path.iterdir()) == [out]


def test_few_videos_need_no_inverted_file(tmp_path):
    with VideoIndex(tmp_path / 'few.index', ONE) as index:
        for i in range(3):
            index.add({f'{i}': PLACE}, make_vectors(1, seed=i))
            assert not index.build_inverted(above=0)


def test_empty_index(tmp_path):
    with VideoIndex(tmp_path / 'empty.index', ONE) as index:
        assert len(index) == 0
        assert index.search(np.ones((2, 4), np.float32)) == [[], []]


def test_refuses_what_is_not_its_own(clip, few, tmp_path):
    path = tmp_path / 'one.index'
    VideoIndex(path, ONE).close()
    names = r'made by one.py \(a{12}\), not by other.py \(b{12}\); use that model'
    with pytest.raises(ValueError, match=names):
        VideoIndex(path, OTHER)
    names = r'made by one.py \(a{12}\), not by ViT-moving-shapes with weights mmstop'
    with pytest.raises(ValueError, match=names):
        clip.search('a red circle', path)
    with pytest.raises(ValueError, match=names):
        update_index(clip, few, path)
    with pytest.raises(FileNotFoundError, match='none.index.: there is no such file'):
        VideoIndex(tmp_path / 'none.index')
    (tmp_path / 'text').write_text('not a data base' * 100)
    sqlite3.connect(tmp_path / 'other.db').execute(
        'CREATE TABLE t (a)'
    ).connection.close()
    for name in ('text', 'other.db', '.'):
        with pytest.raises(
            (ValueError, FileNotFoundError), match='not an index|no such file'
        ):
            VideoIndex(tmp_path / name)
    with pytest.raises(ValueError, match='text is not an index written by'):
        VideoIndex(tmp_path / 'text', ONE)


def test_without_faiss(tmp_path, monkeypatch):
    """Searches are exact, also with an inverted file that it cannot read."""
    vectors = make_vectors(2000)
    with VideoIndex(tmp_path / 'one.index', ONE) as index:
        index.add({f'{i}': PLACE for i in range(2000)}, vectors)
        index.build_inverted(above=0)
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with VideoIndex(tmp_path / 'one.index', ONE) as index:
        exact = index.search(vectors[:9], exact=True)
        assert index.search(vectors[:9]) == exact
        with pytest.warns(UserWarning, match=r"2,000 .*pip install 'mmstop\[search\]'"):
            assert not index.build_inverted(above=0)
