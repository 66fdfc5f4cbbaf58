"""Measure what users wait for: a search, the first page, and saving.

    python tools/analysis/benchmark_use.py search --rows 100000
    python tools/analysis/benchmark_use.py serve
    python tools/analysis/benchmark_use.py save configs/clip4clip/clip4clip_msrvtt.py

The model is ViT-B/32 with random weights, in a file of 605 MB except for ``save``. Most
figures are CPU seconds, which a busy machine changes less than the time on the clock.

``search`` takes apart what ``mmstop search`` does, in this process, and then runs the
command. ``serve`` runs the page after the model and the index are loaded, and measures
how long the address that ``mmstop serve`` prints takes to answer. ``save`` writes the
checkpoints of a config with random weights, with and without the optimizer's state.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional

import mmstop_cli

# What takes long to import is imported where it is measured.

ARCH = 'ViT-B-32-quickgelu'
QUERY = 'a red circle moves left'
BATCH = 10_000  # rows that are written at a time
SAVES = 4  # the first one also looks for what is frozen


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name in ('search', 'serve'):
        command = commands.add_parser(name)
        command.add_argument('--rows', type=int, default=100_000, help='of the index')
        command.add_argument('--arch', default=ARCH)
    command = commands.add_parser('save')
    command.add_argument('config')
    args = parser.parse_args(argv)
    with TemporaryDirectory() as folder:
        if args.command == 'save':
            found = save(args.config, folder)
        else:
            with ProcessPoolExecutor(1, get_context('spawn')) as pool:
                pool.submit(prepare, Path(folder), args.arch, args.rows).result()
            measure = search if args.command == 'search' else serve
            found = measure(Path(folder), args.arch)
    print(
        json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2)
    )


def prepare(folder: Path, arch: str, num: int) -> None:
    """Write a file of random weights, and an index of random rows."""
    import numpy as np
    from safetensors.torch import save_file

    from mmstop.apis import VideoIndex
    from mmstop.apis.index import Source
    from mmstop.towers.weights import build_clip, resolve_arch

    weights = build_clip(resolve_arch(arch), None).state_dict()
    save_file(weights, folder / 'clip.safetensors')
    clip = load(folder, arch)
    rng = np.random.default_rng(0)
    with VideoIndex(folder / 'videos.index', clip.identity) as index:
        for start in range(0, num, BATCH):
            size = min(BATCH, num - start), clip.text.out_dim
            rows = rng.standard_normal(size, np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            names = (f'/videos/{start + i}.mp4' for i in range(len(rows)))
            index.add({name: Source(1, 1) for name in names}, rows)


def load(folder: Path, arch: str) -> Any:
    """Load the model as the commands do."""
    from mmstop.apis import VideoCLIP

    return VideoCLIP.from_clip(arch, str(folder / 'clip.safetensors'), device='cpu')


def timed(work: Callable, *args: Any) -> tuple[float, Any]:
    """Return the CPU seconds of a call, and its result."""
    start = time.process_time()
    result = work(*args)
    return time.process_time() - start, result


def search(folder: Path, arch: str) -> dict[str, float]:
    """Search step by step, then with the command: CPU seconds."""

    def start() -> Any:
        mmstop_cli.import_mmstop()
        from mmstop.apis import VideoIndex

        return VideoIndex

    found = {}
    found['import'], opener = timed(start)
    found['load the weights'], clip = timed(load, folder, arch)
    found['identify the model'], identity = timed(lambda: clip.identity)
    found['encode the text'], text = timed(clip.encode_text, QUERY)

    def find() -> list:
        with opener(folder / 'videos.index') as index:
            index.check(identity)
            return index.search(text, 10)

    found['open and search the index'], _ = timed(find)
    command = [*mmstop('search', folder, arch), QUERY]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {**found, 'the command': user + system}


def mmstop(name: str, folder: Path, arch: str) -> list[str]:
    """Return a command that opens the index with the model that made it."""
    model = ['--arch', arch, '--weights', str(folder / 'clip.safetensors')]
    command = [sys.executable, '-c', 'import sys, mmstop_cli as c; sys.exit(c.main())']
    return [*command, name, str(folder / 'videos.index'), '--device', 'cpu', *model]


def serve(folder: Path, arch: str) -> dict[str, float]:
    """Run the page twice in this process, then wait for the server."""
    from streamlit.testing.v1 import AppTest

    from mmstop.serving import Desk, server

    server._desk = Desk(load(folder, arch), folder / 'videos.index')
    page = AppTest.from_file(str(server.PAGE), default_timeout=600)
    found = {'first page, CPU seconds': timed(page.run)[0]}
    page.text_input[0].input(QUERY)
    found['a search on it, CPU seconds'], _ = timed(page.run)
    server._desk.close()
    if page.exception:
        raise RuntimeError(f'the page failed: {page.exception[0].message}')
    command = [*mmstop('serve', folder, arch), '--port', '8599']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            start = time.perf_counter()
            wait_for(address)
            found['until the address answers, seconds'] = time.perf_counter() - start
        finally:
            process.terminate()
            process.wait()  # it prints when it stops, so its stdout stays open
    return found


def wait_for(address: str) -> None:
    """Ask for a page until it comes, for a minute."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                answer.read()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f'{address} does not answer')


def save(config: str, folder: str) -> dict[str, float]:
    """Save a config's checkpoints as training does."""
    import torch
    from mmengine.runner import Runner
    from torch.utils.data import DataLoader

    from mmstop.config import load_config
    from mmstop.engine import TrainableCheckpointHook

    cfg = load_config(config, {'weights': None})
    for split in ('val', 'test'):
        cfg.update({f'{split}_{x}': None for x in ('dataloader', 'cfg', 'evaluator')})
    cfg.update(work_dir=folder, launcher='none')
    runner: Any = Runner.from_cfg(cfg)
    runner._train_dataloader = DataLoader([0])  # instead of the config's videos
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    for parameter in runner.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    runner.optim_wrapper.step()  # the optimizer's state comes with the first step
    (hook,) = (h for h in runner.hooks if isinstance(h, TrainableCheckpointHook))
    hook.before_train(runner)
    hook.save_param_scheduler = False  # none is built, and it takes a few bytes
    return dict(_save(runner, hook))


def _save(runner: Any, hook: Any) -> Iterator[tuple[str, float]]:
    for name, hook.save_optimizer in (('whole', True), ('without optimizer', False)):
        times = []
        for step in range(SAVES):
            start = time.perf_counter(), time.process_time()
            hook._save_checkpoint_with_step(runner, step, dict(epoch=step, iter=step))
            end = time.perf_counter(), time.process_time()
            times.append([b - a for a, b in zip(start, end)])
        size = os.stat(hook.last_ckpt).st_size
        yield f'{name}, MB', size / 1e6
        yield f'{name}, first save, CPU seconds', times[0][1]
        yield f'{name}, seconds', sorted(wall for wall, _ in times[1:])[1]
        yield f'{name}, CPU seconds', sorted(cpu for _, cpu in times[1:])[1]


if __name__ == '__main__':
    main()
