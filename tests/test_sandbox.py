"""Videos whose decoder kills, hangs or floods its process: named, and the rest read."""

import ctypes
import gc
import io
import os
import re
import signal
import time
from functools import partial
from multiprocessing import get_context

import av
import numpy as np
import pytest
import torch
from faulty_videos import write_bomb, write_frames
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from test_cli import CLIP
from test_tools import train as train_tool
from tiny import TINY
from tiny_run import tiny_config, write_tiny_run
from torch.utils.data import DataLoader

import mmstop_cli as cli
from mmstop.apis import VideoCLIP, VideoIndex
from mmstop.apis.sandbox import TIMEOUT, try_all, try_videos
from mmstop.datasets import VideoError, data_workers
from mmstop.datasets.data_workers import plain_worker_errors
from mmstop.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Misbehave(BaseTransform):
    """Stand in for a decoder that does what the name of the video says."""

    def transform(self, results):
        misbehave(os.path.basename(results['filename']))
        return results


def misbehave(name):
    if 'hang' in name:
        time.sleep(1000)
    if 'crash' in name:
        ctypes.string_at(0)
    if 'killed' in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if 'raise' in name:
        raise VideoError('the cause')
    return name


CRASH = 'the decoder crashed (SIGSEGV)'


# --- The processes ------------------------------------------------------------------


def test_a_decoder_may_hang_or_crash(capfd):
    paths = ['fine', 'hang', 'crash', 'raise', 'crash', 'fine']
    found = list(try_videos(misbehave, paths, workers=2, timeout=2))
    hung = 'it was not decoded within 2 s'
    assert found == [None, hung, CRASH, 'the cause', CRASH, None]
    assert capfd.readouterr() == ('', '')


def test_results_come_in_order_and_not_too_many_ahead(tmp_path):
    def work(i):
        (tmp_path / str(i)).touch()
        return i

    outcomes = try_all(work, range(20), workers=2, ahead=3)
    for i, outcome in enumerate(outcomes):
        assert outcome == (i, None)
        assert len(list(tmp_path.iterdir())) <= i + 1 + 2 + 3
    assert i == 19 and list(try_all(work, [])) == []


def test_who_stops_asking_does_not_wait():
    start = time.monotonic()
    outcomes = try_all(misbehave, ['fine', 'hang', 'hang'], workers=2, ahead=1)
    assert next(outcomes) == ('fine', None)
    outcomes.close()
    assert time.monotonic() - start < TIMEOUT / 10


def test_what_cannot_be_sent_is_a_fault():
    ((value, fault),) = try_all(lambda _: lambda: None, [1])
    assert value is None and 'pickle' in fault


def test_processes_end_with_the_one_that_asks(tmp_path):
    """Even if it is killed, and they hang."""

    def work(_):
        (tmp_path / 'pid').write_text(str(os.getpid()))
        (tmp_path / 'pid').rename(tmp_path / 'started')
        time.sleep(1000)

    parent = os.fork()
    if not parent:
        list(try_all(work, [1]))
        os._exit(0)
    while not (tmp_path / 'started').exists():
        time.sleep(0.02)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    pid = int((tmp_path / 'started').read_text())
    while is_alive(pid):
        time.sleep(0.02)


def is_alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


# --- Commands -----------------------------------------------------------------------


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Good videos, one that aborts decord and one that is no video."""
    folder = tmp_path_factory.mktemp('videos')
    for name in 'abcd':
        write_frames(folder / f'{name}.mp4', 4)
    write_bomb(folder / 'bomb.avi')
    (folder / 'list.mp4').write_text('#EXTM3U\n')
    return folder


@pytest.fixture(scope='module')
def clip():
    return VideoCLIP.from_clip(TINY, None, 2, 'cpu')


def test_embed_and_classify_go_on(folder, tmp_path, capfd):
    out, model = tmp_path / 'x.index', [*CLIP, '--decoder', 'decord']
    assert cli.main(['embed', str(folder), '--out', str(out), *model]) == 0
    err = capfd.readouterr().err.splitlines()
    assert sorted(line.split(' cannot be read: ')[0] for line in err) == [
        str(folder / 'bomb.avi'),
        str(folder / 'list.mp4'),
    ]
    assert 'the decoder crashed (SIGABRT)' in ''.join(err)
    paths, rows = VideoIndex(out).load()
    assert paths == [str(folder / f'{name}.mp4') for name in 'abcd']
    assert np.isfinite(rows).all()
    ask = ['classify', str(folder / '*'), *model, '--labels', 'a', 'b']
    assert cli.main([*ask, '--num-workers', '2', '--batch-size', '1']) == 0
    out, err = capfd.readouterr()
    assert out.count('a.mp4') == 1 and err.count('cannot be read') == 2
    assert err.count('\n') == 2


@pytest.mark.parametrize('decoder', ['decord', 'pyav'])
def test_any_decoder_may_kill(clip, decoder, folder, monkeypatch):
    other = VideoCLIP.from_clip(TINY, None, 2, 'cpu', decoder)
    other.pipelines[0].transforms.insert(0, Misbehave())
    content = (folder / 'a.mp4').read_bytes()
    names = ['killed.mp4', 'fine.mp4', 'crash.mp4', 'fine.mp4']
    for name in names:
        (folder / name).write_bytes(content)
    faults = {}
    rows = other.encode_video([folder / n for n in names], on_error=faults.__setitem__)
    assert faults == {
        str(folder / 'killed.mp4'): 'the decoder crashed (SIGKILL)',
        str(folder / 'crash.mp4'): CRASH,
    }
    assert np.isnan(rows).any(1).tolist() == [True, False, True, False]


@pytest.mark.parametrize('decoder', ['decord', 'pyav'])
def test_what_never_ends_is_not_read(decoder, tmp_path):
    os.mkfifo(tmp_path / 'pipe.mp4')
    other = VideoCLIP.from_clip(TINY, None, 2, 'cpu', decoder)
    (batch,) = other.stream([str(tmp_path / 'pipe.mp4'), '/dev/zero', str(tmp_path)])
    assert batch.errors == {
        0: 'it is a device',
        1: 'it is a device',
        2: 'it is a folder',
    }


def test_numbers_of_videos_and_processes(clip, folder):
    path = folder / 'a.mp4'
    with pytest.raises(ValueError, match='num_workers=-1, expected at least 0'):
        clip.encode_video(path, num_workers=-1)
    with pytest.raises(ValueError, match='batch_size=0, expected at least 1'):
        clip.encode_video(path, batch_size=0)
    for ask in (partial(clip.classify, path, ['a']), partial(clip.search, 'a', 'x')):
        with pytest.raises(ValueError, match='topk=0, expected at least 1'):
            ask(topk=0)


# --- Data workers -------------------------------------------------------------------


def test_a_killed_data_worker_names_its_video(tmp_path):
    dataset = killing(tmp_path, 'killed.mp4')
    loader = DataLoader(dataset, 2, num_workers=2, collate_fn=pseudo_collate)
    message = r'videos/killed.mp4 \(line 4 of \S+train.txt\). Remove it from the annot'
    with pytest.raises(VideoError, match=message), plain_worker_errors():
        list(loader)
    dataset = killing(tmp_path, 'raise.mp4')
    loader = DataLoader(dataset, 2, num_workers=1, collate_fn=pseudo_collate)
    message = r'^\S+videos/raise.mp4 \(line 4 of \S+train.txt\): the cause. .*\w$'
    with pytest.raises(VideoError, match=message), plain_worker_errors():
        list(loader)
    with pytest.raises(RuntimeError, match='another'), plain_worker_errors():
        raise RuntimeError('another error')


def test_a_broken_connection_waits_for_the_signal_that_names_the_worker(monkeypatch):
    """The signal of a worker's death may come after the end of its connection."""

    def handle(*_):
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')

    before = signal.signal(signal.SIGALRM, handle)
    monkeypatch.setattr(data_workers, '_note_of', 'video {}.mp4'.format)
    try:
        with pytest.raises(VideoError, match='video 7.mp4'), plain_worker_errors():
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            raise ConnectionResetError
    finally:
        signal.signal(signal.SIGALRM, before)
    monkeypatch.setattr(data_workers, 'WAIT', 0)
    with pytest.raises(ConnectionResetError), plain_worker_errors():
        raise ConnectionResetError


def killing(folder, name):
    """A data set of four videos, the last of which is called ``name``."""
    (folder / 'videos').mkdir(exist_ok=True)
    for video in ('a.mp4', 'b.mp4', 'c.mp4', name):
        write_frames(folder / 'videos' / video, 4)
    (folder / 'train.txt').write_text(f'a.mp4 0\nb.mp4 1\nc.mp4 2\n{name} 0\n')
    config = tiny_config(folder)['train_dataloader']['dataset']
    config['pipeline'].insert(0, dict(type='Misbehave'))
    with DefaultScope.overwrite_default_scope('mmaction'):
        return DATASETS.build(config)


def test_training_ends_with_one_line(tmp_path, capfd):
    config = write_tiny_run(tmp_path)
    cfg = Config.fromfile(config)
    cfg.train_dataloader.num_workers = 1
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type='Misbehave'))
    cfg.dump(config)
    videos = tmp_path / 'videos' / 'b'
    (videos / 'red.mp4').rename(videos / 'killed.mp4')
    names = (tmp_path / 'train.txt').read_text()
    (tmp_path / 'train.txt').write_text(names.replace('b/red', 'b/killed'))
    (tmp_path / 'test.txt').write_text('a/red.mp4 0')
    # PyTorch raises the error from a signal handler. If that interrupts the start of a
    # no_grad, gradients stay off.
    with torch.enable_grad():
        assert train_tool.main([str(config)]) == 1
    (line,) = (x for x in capfd.readouterr().err.splitlines() if 'error: ' in x)
    # PyTorch tells the signal only where its handler is faster than its polling.
    assert re.search(r'killed by signal: Killed|exited unexpectedly', line)
    assert 'videos/b/killed.mp4 (line 2 of ' in line


def test_forked_process_leaves_its_parents_encoders_alone():
    """Closing one waits for threads that are not forked; it would crash or hang."""
    file = av.open(io.BytesIO(), 'w', format='mp4')
    stream = file.add_stream('libx264', 25, options={'threads': '4'})
    stream.width, stream.height = 320, 240
    stream.encode(av.VideoFrame(320, 240, 'yuv420p'))
    gc.disable()
    try:
        cycle = [file, stream]
        cycle.append(cycle)
        del file, stream, cycle
        process = get_context('fork').Process(target=gc.collect)
        process.start()
        process.join(120)
        ended = process.exitcode
        process.kill()
    finally:
        gc.enable()
        gc.collect()
    assert ended == 0
