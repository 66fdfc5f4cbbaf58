"""Checkpoints of strangers: nothing runs, is removed or fills the memory."""

import os
import pickle
import resource
import shutil
import struct
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from compat_toy import train
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint
from test_compat import Call
from tiny import TINY

from mmstop import compat
from mmstop.compat.reader import read
from mmstop.engine import SafeCheckpointHook
from mmstop.errors import ConfigError
from mmstop.towers.weights import build_clip, resolve_arch

PROGRAM = "a = __import__('os').system('touch {}')\ngpu_ids = [0]\n"


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder after two epochs of the toy, with its best checkpoint."""
    folder = tmp_path_factory.mktemp('A')
    train(folder, epochs=2)
    return folder


@pytest.fixture
def spoil(trained, tmp_path):
    """Return a function that changes the toy's first checkpoint and saves it anew."""

    def spoil(change):
        content = read(trained / 'epoch_1.pth')
        change(content)
        path = tmp_path / 'spoilt.pth'
        torch.save(content, path)
        return path

    return spoil


# -- nothing runs ----------------------------------------------------------------------


def test_resuming_runs_no_stored_config(spoil, tmp_path):
    program = PROGRAM.format(tmp_path / 'RAN')
    path = spoil(lambda c: c['meta'].update(config=program, cfg=program))
    resumed = train(tmp_path / 'B', 2, load_from=str(path), resume=True)
    assert resumed.epoch == 2
    assert not (tmp_path / 'RAN').exists()


def test_inferencers_run_no_stored_config(spoil, tmp_path):
    from mmaction.apis.inferencers import ActionRecogInferencer

    program = PROGRAM.format(tmp_path / 'RAN')
    path = spoil(lambda c: c['message_hub']['runtime_info'].update(cfg=program))
    message = r"spoilt.pth' and no config: .* is not run; give the config file"
    with pytest.raises(ValueError, match=message):
        ActionRecogInferencer(None, weights=str(path))
    assert not (tmp_path / 'RAN').exists()


# -- nothing is removed ----------------------------------------------------------------


def test_resuming_removes_nothing_that_a_checkpoint_names(spoil, tmp_path):
    victims = [tmp_path / name for name in ('v1', 'v2.pth', 'epoch_7.pth', 'B/notes')]
    (tmp_path / 'B').mkdir()
    for victim in (*victims, tmp_path / 'B' / 'other.part'):
        victim.write_text('precious')
    info = dict(
        outdated_ckpts=[str(victims[0]), '../v2.pth', '../epoch_7.pth', 'notes'],
        best_ckpt=str(victims[2]),
        last_ckpt=str(victims[1]),
        keep_ckpt_ids=['../../v1', '8/../../v2', 1],
    )
    path = spoil(lambda c: c['message_hub']['runtime_info'].update(info))
    for hook in (CheckpointHook, SafeCheckpointHook):
        options = dict(max_keep_ckpts=1, published_keys=['state_dict'])
        train(tmp_path / 'B', 2, hook, options, load_from=str(path), resume=True)
    assert [v.read_text() for v in victims] == ['precious'] * 4
    assert (tmp_path / 'B' / 'other.part').exists()
    assert not list(tmp_path.glob('v2-*'))  # nor published beside


def test_a_copied_checkpoint_leaves_the_original_s_best_alone(trained, tmp_path):
    before = sorted(p.name for p in trained.glob('*.pth'))
    assert any(name.startswith('best_') for name in before)
    shutil.copy(trained / 'epoch_1.pth', tmp_path)
    copied = str(tmp_path / 'epoch_1.pth')
    resumed = train(tmp_path, 2, load_from=copied, resume=True)
    assert sorted(p.name for p in trained.glob('*.pth')) == before
    best = resumed.message_hub.get_info('best_ckpt')
    assert Path(best).parent == tmp_path and Path(best).exists()


def test_a_copied_folder_resumes_its_own_file(trained, tmp_path):
    copy, moved = tmp_path / 'copy', tmp_path / 'moved'
    shutil.copytree(trained, copy)
    assert checkpoint.find_latest_checkpoint(str(copy)) == str(copy / 'epoch_2.pth')
    copy.rename(moved)
    shutil.copy(moved / 'epoch_1.pth', moved / 'epoch_2.pth')  # tell them apart
    assert train(moved, 1, resume=True).epoch == 1
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'last_checkpoint').write_text(str(moved / 'epoch_1.pth'))
    assert checkpoint.find_latest_checkpoint(str(elsewhere)) == str(
        moved / 'epoch_1.pth'
    )


# -- nothing fills the memory ----------------------------------------------------------


def peak_of(function):
    """Return by how many bytes a call raised the most that this process ever took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def refused(path):
    with pytest.raises(compat.CheckpointError, match=f'^{path} (asks for|cannot be)'):
        read(path)


def squared(value, times=40):
    for _ in range(times):
        value = Call(__import__('_codecs').encode, value, 'hex')
    return value


@pytest.mark.parametrize(
    'content',
    [
        Call(bytes, 2**31),
        Call(bytes, np.int64(2**31)),
        Call(bytearray, 2**31),
        Call(torch.Tensor, 2**29),
        Call(torch.FloatTensor, 2**29),
        Call(torch.storage.UntypedStorage, 2**31),
        squared(b'x'),
    ],
    ids=['bytes', 'numpy', 'bytearray', 'Tensor', 'FloatTensor', 'storage', 'codec'],
)
def test_a_few_bytes_stay_a_few_bytes(content, tmp_path):
    for old in (False, True):
        path = tmp_path / f'{old}.pth'
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        assert path.stat().st_size < 10_000
        assert peak_of(partial(refused, path)) < 50e6


def test_storages_are_no_larger_than_their_file(tmp_path):
    path = tmp_path / 'old.pth'
    state = dict(state_dict=dict(weight=torch.zeros(1000)))
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert read(path)['state_dict']['weight'].shape == (1000,)
    count = b'M\xe8\x03'  # 1000, as pickle writes it
    assert path.read_bytes().count(count) >= 2
    path.write_bytes(path.read_bytes().replace(count, b'J' + struct.pack('<i', 2**30)))
    with pytest.raises(compat.CheckpointError, match='are larger than the file'):
        read(path)


def repack(source, path, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, 'w', compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def test_an_archive_that_unfolds_is_refused(tmp_path):
    torch.save(dict(state_dict=dict(w=torch.zeros(1_000_000))), tmp_path / 'a.pth')
    repack(tmp_path / 'a.pth', tmp_path / 'b.pth')
    assert (tmp_path / 'b.pth').stat().st_size < 10_000
    with pytest.raises(compat.CheckpointError, match='b.pth .*: it unpacks'):
        read(tmp_path / 'b.pth')
    # A second list of records, in front of which bytes were put, is not looked for.
    data = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'c.pth').write_bytes(data[:64] + data)
    with pytest.raises(compat.CheckpointError, match='c.pth cannot be read'):
        read(tmp_path / 'c.pth')


@pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning')
def test_weights_that_unfold_are_refused(tmp_path):
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(1_000_000))
    torch.jit.script(module).save(tmp_path / 'a.pt')
    repack(tmp_path / 'a.pt', tmp_path / 'b.pt')
    message = r'b.pt cannot be read as CLIP weights \(its \S+ bytes unpack to 4,'
    with pytest.raises(ConfigError, match=message):
        build_clip(resolve_arch(TINY), str(tmp_path / 'b.pt'))


# -- what is no checkpoint -------------------------------------------------------------


@pytest.mark.parametrize(
    ('entry', 'value', 'message'),
    [
        ('state_dict', None, 'holds a NoneType as its state_dict, expected a dict'),
        ('state_dict', [1], 'holds a list as its state_dict, expected a dict'),
        ('state_dict', {1: 2}, 'holds a dict as its state_dict, expected .* names'),
        ('meta', [], 'holds a list as its meta, expected a dict'),
        ('message_hub', 3, 'holds a int as its message_hub, expected a dict'),
    ],
)
def test_entries_of_a_wrong_type(entry, value, message, tmp_path):
    torch.save({'state_dict': {}, entry: value}, tmp_path / 'odd.pth')
    with pytest.raises(compat.CheckpointError, match=f'odd.pth {message}.* save it'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'odd.pth'))


# -- other people's torch.load ---------------------------------------------------------


def test_torch_load_is_left_as_it_was(trained, tmp_path):
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        torch.load(trained / 'epoch_1.pth')  # theirs knows of no HistoryBuffer
    path = tmp_path / 'theirs.pth'
    torch.save(np.arange(3), path)
    types = [np.ndarray, np.dtype, type(np.dtype('int64'))]
    names = [
        'numpy._core.multiarray._reconstruct',
        'numpy.core.multiarray._reconstruct',
    ]
    make = np.arange(3).__reduce__()[0]
    theirs = [*types, *((make, name) for name in names)]
    with torch.serialization.safe_globals(theirs):
        assert type(torch.load(path)) is np.ndarray
        assert type(read(path)).__module__ == 'mmstop.compat.allowed'


def test_threads_read_beside_each_other(trained):
    before = dict(os.environ), set(torch.serialization.get_safe_globals())
    failures, gate = [], threading.Barrier(4)

    def load():
        gate.wait()
        try:
            for _ in range(60):
                CheckpointLoader.load_checkpoint(
                    str(trained / 'epoch_1.pth'), 'cpu', logger='silent'
                )
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert before == (dict(os.environ), set(torch.serialization.get_safe_globals()))


def test_own_statistics_are_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(
        HistoryBuffer, '_statistics_methods', dict(HistoryBuffer._statistics_methods)
    )
    HistoryBuffer.register_statistics(lambda buffer: 7)
    train(tmp_path, 1)
    last = str(tmp_path / 'epoch_1.pth')
    resumed = train(tmp_path, 2, load_from=last, resume=True)
    history = resumed.message_hub.get_scalar('train/loss')
    assert history.statistics('<lambda>') == 7
    assert len(history.data[0]) == 4
