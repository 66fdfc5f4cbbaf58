"""Several processes compute what one computes, and end together."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed_step
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DefaultScope
from tiny_run import ROOT, environment, run, write_tiny_retrieval, write_tiny_run

from mmstop.compat.reader import read
from mmstop.registry import MODELS

TORCHRUN = (sys.executable, '-m', 'torch.distributed.run', '--standalone')
TESTS_TOO = f'{ROOT}:{ROOT / "tests"}'


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp('tiny'))


# --- A step -------------------------------------------------------------------------


@pytest.fixture(scope='module')
def alone() -> dict:
    """Loss and gradients of the whole batch in this process, without a wrapper."""
    return {
        (task, dtype, frames): distributed_step.step(
            distributed_step.build(task).to(dtype), task, dtype, frames
        )
        for task, dtype, frames in distributed_step.CASES
    }


def test_the_batch_has_videos_with_many_prompts_few_and_none():
    backbone = distributed_step.build('recognition').backbone
    counts = backbone.trace(distributed_step.videos(5)).num_prompts.sum(1)
    assert len(set(counts[:6].tolist())) > 3 and counts[:6].min() > 0
    assert counts[6:].tolist() == [0, 0]


@pytest.mark.parametrize('processes', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_give_loss_and_gradients_of_one(processes, alone, tmp_path):
    done = run(
        *TORCHRUN, f'--nproc-per-node={processes}',
        ROOT / 'tests' / 'distributed_step.py', tmp_path / 'step',
        PYTHONPATH=TESTS_TOO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f'step.{rank}') for rank in range(processes)]
    for case, expected in alone.items():
        task, dtype, _ = case
        bound = 1e-4 if dtype == torch.float32 else 1e-12
        losses = torch.stack([found[case].pop('loss') for found in ranks])
        assert losses.dtype == dtype
        if task != 'recognition':  # every process has that of the whole batch
            assert (losses == losses[0]).all()
        assert_close('loss', losses.mean(), expected['loss'], bound)
        for found in ranks:
            assert {'loss', *found[case]} == expected.keys()
            for name, gradient in found[case].items():
                assert_close(f'{name} of {case}', gradient, expected[name], bound)


def assert_close(name, found, expected, bound):
    error, size = (found - expected).norm(), expected.norm()
    assert error <= bound * size, f'{name}: {error} of {size}'


# --- Testing ------------------------------------------------------------------------


def save_weights(config: Path) -> Path:
    """Save the model of a config as it is initialised."""
    path = config.parent / 'weights.pth'
    with DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(Config.fromfile(config).model)
    torch.save({'state_dict': model.state_dict()}, path)
    return path


def run_test(config, weights, processes, folder, *arguments) -> dict:
    """Test with several processes, or one without a launcher; return the metrics."""
    tool = [sys.executable, ROOT / 'tools' / 'test.py', config, weights]
    if processes > 1:
        tool = [ROOT / 'tools' / 'dist_test.sh', config, weights, processes]
    # Batches of one are the same ones in any number of processes, to the last digit.
    options = ['--cfg-options', 'test_dataloader.batch_size=1']
    done = run(*tool, '--work-dir', folder, *arguments, *options)
    assert done.returncode == 0, done.stderr
    (log,) = folder.glob('*/*.json')
    metrics = json.loads(log.read_text())
    return {key: value for key, value in metrics.items() if '/' in key}


@pytest.mark.slow
def test_seven_videos_are_recognised_alike(config, tmp_path):
    lines = (config.parent / 'train.txt').read_text().splitlines()
    videos = config.parent / 'videos' / 'a'
    shutil.copy(videos / 'red.mp4', videos / 'seventh.mp4')
    (config.parent / 'test.txt').write_text('\n'.join([*lines, 'a/seventh.mp4 2']))
    weights, metrics, scores = save_weights(config), {}, {}
    for n in (1, 3):
        dump = tmp_path / f'{n}.pkl'
        metrics[n] = run_test(config, weights, n, tmp_path / str(n), '--dump', dump)
        scores[n] = torch.stack([item['pred_score'] for item in load(str(dump))])
    assert metrics[1].keys() == {'acc/top1', 'acc/top5', 'acc/mean1'}
    assert metrics[1] == metrics[3]
    assert len(scores[1]) == 7 and torch.equal(scores[1], scores[3])


@pytest.mark.slow
def test_five_videos_with_one_to_five_captions_are_retrieved_alike(tmp_path):
    config = write_tiny_retrieval(tmp_path)
    captions = json.loads((tmp_path / 'test.json').read_text())
    uneven = {name: texts[: i + 1] for i, (name, texts) in enumerate(captions.items())}
    (tmp_path / 'test.json').write_text(json.dumps(uneven))
    cfg = Config.fromfile(config)
    cfg.test_evaluator.features_out = str(tmp_path / 'features.npz')
    cfg.dump(config)
    weights, metrics, features = save_weights(config), {}, {}
    for n in (1, 3):
        metrics[n] = run_test(config, weights, n, tmp_path / str(n))
        features[n] = dict(np.load(tmp_path / 'features.npz'))
    assert len(metrics[1]) == 15
    assert metrics[1] == metrics[3]
    assert features[1]['owner'].tolist() == np.repeat(range(5), range(1, 6)).tolist()
    for name, expected in features[1].items():
        np.testing.assert_array_equal(features[3][name], expected)


@pytest.mark.slow
def test_dist_test_draws_all(config, tmp_path):
    show = tmp_path / 'show'
    run_test(config, save_weights(config), 2, tmp_path, '--show-dir', show)
    numbers = sorted(p.stem.split('_')[-1] for p in show.iterdir())
    count = len((config.parent / 'test.txt').read_text().splitlines())
    assert numbers == [f'{i:06d}' for i in range(count)]


# --- Training -----------------------------------------------------------------------


def test_dist_train(config, tmp_path):
    result = run(
        ROOT / 'tools' / 'dist_train.sh', config, 2, '--work-dir', tmp_path,
        '--cfg-options', 'train_cfg.max_epochs=1',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'Distributed training: True' in result.stdout
    assert 'GPU number: 2' in result.stdout
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.slow
def test_two_nodes_give_the_weights_of_one(config, tmp_path):
    tool = ROOT / 'tools' / 'dist_train.sh'
    one = run(tool, config, 2, '--work-dir', tmp_path / 'one')
    assert one.returncode == 0, one.stderr
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    nodes = [
        subprocess.Popen(
            [tool, config, '1', '--work-dir', tmp_path / 'two'],
            env=environment(NNODES='2', NODE_RANK=rank, PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ('0', '1')
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert 'GPU number: 2' in outputs[0]
    expected, found = (
        read(tmp_path / folder / 'epoch_2.pth')['state_dict']
        for folder in ('one', 'two')
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- The end ------------------------------------------------------------------------

RUN_TOOL = """
import runpy, sys
from distributed_step import gloo_threads
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
    print('code', end.code, 'threads', gloo_threads())
"""


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_no_thread_outlives_the_work(tool, config, tmp_path):
    """See end_process_group; tests/distributed_step.py sees such threads at work."""
    script = tmp_path / 'run_tool.py'
    script.write_text(RUN_TOOL)
    arguments = [config] if tool == 'train' else [config, save_weights(config)]
    done = run(
        *TORCHRUN, script, ROOT / 'tools' / f'{tool}.py', *arguments,
        '--launcher', 'pytorch', '--work-dir', tmp_path,
        PYTHONPATH=TESTS_TOO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'code 0 threads []' in done.stdout


STUMBLE = """
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Stumble(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == 1 and runner.iter == 3:
            raise RuntimeError('one rank stumbles')
"""


def processes(folder: Path) -> dict[int, list[str]]:
    """Return the environments of the living processes that were launched here."""
    found = {}
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            variables = path.read_bytes().decode(errors='replace').split('\0')
        except OSError:  # another user's, or gone meanwhile
            continue
        if f'LAUNCHED_IN={folder}' in variables:
            found[int(path.parent.name)] = variables
    return found


def parent(pid: int) -> int:
    status = Path(f'/proc/{pid}/status').read_text()
    return int(re.search(r'^PPid:\s*(\d+)', status, re.M)[1])


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f'waited for {seconds} s'
        time.sleep(0.1)


@contextmanager
def launched(config: Path, folder: Path) -> Iterator[subprocess.Popen]:
    """Train in two processes with a data worker each; the output goes to a file.

    Leaving it asserts that all of them end within a minute and that the launcher tells.
    """
    options = ['train_cfg.max_epochs=1000', 'train_dataloader.num_workers=1']
    with (folder / 'output').open('w') as output:
        launcher = subprocess.Popen(
            [
                ROOT / 'tools' / 'dist_train.sh', config, '2', '--no-validate',
                '--work-dir', folder / 'work', '--cfg-options', *options,
            ],
            env=environment(LAUNCHED_IN=str(folder), PYTHONPATH=str(folder)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield launcher
        assert launcher.wait(60) > 0
        wait_for(lambda: not processes(folder), 60)
    finally:
        for pid in processes(folder):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_rank_ends_all(config, tmp_path):
    output = tmp_path / 'output'
    with launched(config, tmp_path) as launcher:
        second = re.compile(r'Epoch\(train\) +\[ *2\]')
        wait_for(lambda: second.search(output.read_text()), 120)
        (victim,) = (
            pid
            for pid, variables in processes(tmp_path).items()
            if 'RANK=1' in variables and parent(pid) == launcher.pid
        )
        os.kill(victim, signal.SIGKILL)
    report = r'rank +: 1 \(local_rank: 1\)\s+exitcode +: -9 .*\(SIGKILL\)'
    assert re.search(report, output.read_text())


@pytest.mark.slow
def test_an_exception_in_one_rank_ends_all_and_is_shown(config, tmp_path):
    (tmp_path / 'stumble.py').write_text(STUMBLE)
    cfg = Config.fromfile(config)
    cfg.custom_imports.imports = ['mmstop', 'stumble']
    cfg.default_hooks.stumble = dict(type='Stumble')
    cfg.dump(tmp_path / 'stumble_config.py')
    with launched(tmp_path / 'stumble_config.py', tmp_path) as launcher:
        wait_for(lambda: launcher.poll() is not None, 120)
    output = (tmp_path / 'output').read_text()
    assert "raise RuntimeError('one rank stumbles')" in output
    assert re.search(r'rank +: 1 \(local_rank: 1\)\s+exitcode +: 1 ', output)
