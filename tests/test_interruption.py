"""Runs that are killed, or run out of disk, end as undisturbed ones."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from tiny_run import ROOT, environment, run, write_tiny_retrieval, write_tiny_run

from mmstop.compat.reader import read

pytestmark = pytest.mark.slow
TOOL = ROOT / 'tools' / 'train.py'


def recognition(folder: Path) -> Path:
    """Four epochs, the first three of them the best so far; the last slows down."""
    path = write_tiny_run(folder)
    cfg = Config.fromfile(path)
    cfg.randomness.seed = 1
    cfg.optim_wrapper.optimizer.lr = 6e-4
    cfg.train_cfg.max_epochs = 4
    cfg.default_hooks.checkpoint.update(
        max_keep_ckpts=2, save_best='acc/top1', rule='greater'
    )
    plateau = dict(type='ReduceOnPlateauLR', monitor='acc/top1', rule='greater')
    cfg.param_scheduler.append(dict(plateau, patience=0))
    cfg.train_dataloader.dataset.pipeline.insert(5, dict(type='Flip', flip_ratio=0.5))
    cfg.dump(path)
    return path


def retrieval(folder: Path) -> Path:
    """Three epochs with an averaged model, of which one checkpoint is kept."""
    path = write_tiny_retrieval(folder)
    cfg = Config.fromfile(path)
    cfg.train_cfg.max_epochs = 3
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3))
    cfg.dump(path)
    return path


def iterations(folder: Path) -> Path:
    """Eight iterations, saved every second and validated every third."""
    path = recognition(folder)
    cfg = Config.fromfile(path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=3)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, end=8)]
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    cfg.log_processor = dict(by_epoch=False)
    cfg.dump(path)
    return path


# --- What a checkpoint holds, without times and places --------------------------------


def load(path: Path) -> dict:
    return read(path)


def flatten(value: object, name: str = '') -> dict:
    """Return the leaves of nested containers; arrays as dtype, shape and bytes."""
    if isinstance(value, HistoryBuffer):
        value = value.data
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return {name: (value.dtype, value.shape, value.tobytes())}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    items = [flatten(value[key], f'{name}/{key}') for key in value]
    return {k: v for leaves in items for k, v in leaves.items()} or {name: None}


OF_THE_PROCESS = re.compile(
    '/meta/(cfg|experiment_name|mmengine_version|time)'  # the version has a git hash
    '|/message_hub/(resumed_keys|log_scalars/.*time)'
    '|/message_hub/runtime_info/'
    '(cfg|epoch|eta|experiment_name|iter|mmengine_version|outdated_ckpts)'
)


def essence(path: Path) -> dict:
    """Return all that two equal runs share: weights, states, scores, losses."""
    checkpoint = load(path)
    info = checkpoint['message_hub']['runtime_info']
    for name in ('best_ckpt', 'last_ckpt'):
        if name in info:
            info[name] = Path(info[name]).name
    leaves = flatten(checkpoint).items()
    return {k: v for k, v in leaves if not OF_THE_PROCESS.match(k)}


def assert_same_end(one: Path, other: Path) -> None:
    """Two work directories hold the same checkpoints, bit for bit."""
    names = sorted(p.name for p in one.glob('*.p*t*'))
    assert names == sorted(p.name for p in other.glob('*.p*t*'))
    assert sum(name.startswith('best_') for name in names) == 1
    for name in names:
        a, b = essence(one / name), essence(other / name)
        assert a.keys() == b.keys()
        assert [key for key in a if a[key] != b[key]] == [], name


def last(work_dir: Path) -> str:
    """Return the name of the last checkpoint; '' if there is none."""
    pointer = work_dir / 'last_checkpoint'
    return Path(pointer.read_text()).name if pointer.exists() else ''


def assert_usable(work_dir: Path) -> None:
    """What was saved is whole, and what a resumed run will think is best exists."""
    saved = {p.name: load(p) for p in work_dir.glob('*.pth')}
    if last(work_dir):
        known = saved[last(work_dir)]['message_hub']['runtime_info']
        if 'best_ckpt' in known:
            best = saved[Path(known['best_ckpt']).name]['message_hub']['runtime_info']
            assert best['best_score'] == known['best_score']
            assert best['best_ckpt'] == known['best_ckpt']


# --- Death at chosen moments ----------------------------------------------------------


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """Start ``mortal.train`` in a fork of a warm interpreter; return its exit code."""
    paths = [str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, paths)))
        patch.setenv('OMP_NUM_THREADS', '1')
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['mortal'])
        import mortal

        # Starting one process also asks for the exit codes of others, each of which can
        # be read only once. Threads that ask at the same time would get 255.
        asking = threading.Lock()

        def start(*arguments) -> int:
            process = context.Process(target=mortal.train, args=arguments)
            with asking:
                process.start()
            wait([process.sentinel])
            with asking:
                process.join()
            return process.exitcode

        yield start


def choose_moments(events: list[str], seed: int = 0) -> list[int]:
    """Choose a moment of each kind, in random order."""
    kinds: dict[str, list[int]] = {}
    for i, event in enumerate(events):
        kinds.setdefault(re.sub(r'\d+', '#', event), []).append(i)
    generator = random.Random(seed)
    moments = [generator.choice(moments) for moments in kinds.values()]
    return generator.sample(moments, len(moments))


def pointed_to(events: list[str]) -> str:
    """Return the name of the last checkpoint after these events."""
    saved = pointed = ''
    for event in events:
        if re.match('rename (epoch|iter)_', event):
            saved = event.removeprefix('rename ')
        elif event == 'rename last_checkpoint':
            pointed = saved
    return pointed


@pytest.mark.parametrize(
    'task, at_most', [(recognition, 99), (retrieval, 10), (iterations, 8)]
)
def test_death_at_any_moment(task, at_most, start, tmp_path):
    config, whole = task(tmp_path), tmp_path / 'whole'
    assert start(config, whole) == 0, Path(f'{whole}.out').read_text()
    events = Path(f'{whole}.events').read_text().splitlines()
    saved = [event for event in events if re.match('rename (epoch|iter)_', event)]
    assert saved and len(saved) == len({*saved})  # each once

    def die_and_resume(moment: int) -> str:
        work_dir, event = tmp_path / str(moment), events[moment]
        code = start(config, work_dir, moment)
        if event.startswith('write '):
            assert code == -signal.SIGXFSZ
            assert work_dir.joinpath(event.split()[1]).stat().st_size == 10_000
        else:
            assert code == -signal.SIGKILL
        assert last(work_dir) == pointed_to(events[:moment])
        assert_usable(work_dir)
        assert start(config, work_dir) == 0, Path(f'{work_dir}.out').read_text()
        assert_same_end(work_dir, whole)
        if task is not iterations:  # it does not repeat what validations drew
            assert states(work_dir) == states(whole)
        return event

    moments = choose_moments(events)[:at_most]
    with ThreadPoolExecutor(2) as pool:
        survived = list(pool.map(die_and_resume, moments))
    print(f'{len(survived)} deaths survived: {", ".join(survived)}')


def states(work_dir: Path) -> set[str]:
    """Return the epochs with the random states at their ends, each once."""
    return {*Path(f'{work_dir}.states').read_text().splitlines()}


def test_death_at_random_times(tmp_path):
    """The real tool in its own interpreter, killed twice from outside."""
    config, killed, whole = recognition(tmp_path), tmp_path / 'killed', tmp_path / 'w'
    options = ['--cfg-options', 'train_cfg.max_epochs=12', 'train_cfg.val_interval=3']
    train_into = [sys.executable, str(TOOL), str(config), *options, '--work-dir']
    command = [*train_into, str(killed), '--resume']
    kills = 0
    for _ in range(2):
        before = len(list(killed.glob('2*')))
        process = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(list(killed.glob('2*'))) == before:
            time.sleep(0.05)  # until the run has its log folder
        time.sleep(random.uniform(0.5, 2.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        assert_usable(killed)
    assert kills
    finished = run(*command)
    assert finished.returncode == 0, finished.stderr
    undisturbed = run(*train_into, str(whole))
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same_end(killed, whole)


# --- A full disk ----------------------------------------------------------------------

ON_A_SMALL_DISK = """
small=$1; out=$2; shift 2
mount -t tmpfs -o size=20m none "$small" || exit 77
"$@" --work-dir "$small" 2> "$out/errors"
echo $? > "$out/status"
cp -r "$small" "$out/full"
mount -o remount,size=100m "$small"
"$@" --work-dir "$small" --resume
cp -r "$small" "$out/resumed"
"""


def test_full_disk(tmp_path):
    """A real file system of 20 MB, where two checkpoints fit but not three."""
    config, small, whole = recognition(tmp_path), tmp_path / 'small', tmp_path / 'whole'
    small.mkdir()
    namespace = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c']
    train = [sys.executable, TOOL, config]
    result = run(*namespace, ON_A_SMALL_DISK, 'sh', small, tmp_path, *train)
    if result.returncode == 77 or 'unshare failed' in result.stderr:
        pytest.skip(f'no file system can be mounted here: {result.stderr}')
    assert (tmp_path / 'status').read_text().strip() == '1'
    message = (
        r'error: \S+/(\S+\.pth) was not saved: No space left on device\. It takes '
    )
    message += r'[\d.]+ MB and the file system has [\d.]+ MB left\. .*: make room .*\n'
    assert re.search(message + '$', (tmp_path / 'errors').read_text())
    assert not list((tmp_path / 'full').glob('*.part'))
    assert last(tmp_path / 'full')
    assert_usable(tmp_path / 'full')
    assert run(*train, '--work-dir', whole).returncode == 0
    assert_same_end(tmp_path / 'resumed', whole)


# --- The same seed --------------------------------------------------------------------


@pytest.mark.parametrize('num_workers', [0, 1, 4])
def test_same_seed_gives_the_same_weights(num_workers, start, tmp_path):
    """With random crops and flips; other numbers of workers draw other numbers."""
    config = recognition(tmp_path)
    cfg = Config.fromfile(config)
    cfg.train_dataloader.dataset.pipeline[3:5] = [
        dict(type='RandomResizedCrop', area_range=(0.3, 1.0)),
        dict(type='Resize', scale=(32, 32), keep_ratio=False),
    ]
    cfg.train_dataloader.num_workers = num_workers
    cfg.dump(config)
    seeds = dict(a=3, b=3, other=4)
    for name, seed in seeds.items():
        options = ['--deterministic', '--seed', str(seed)]
        assert start(config, tmp_path / name, None, options) == 0
    assert_same_end(tmp_path / 'a', tmp_path / 'b')
    a, other = (load(tmp_path / name / 'epoch_4.pth') for name in ('a', 'other'))
    assert flatten(a['optimizer']) != flatten(other['optimizer'])
