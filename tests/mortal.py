"""tools/train.py in a process that dies at a chosen moment.

``train`` is meant for processes forked from an interpreter that has imported this
module. What it can die at is a numbered sequence of events: files of the work directory
that are opened for writing, renamed or removed (by Python's audit events, whoever does
it), calls of hooks and lines of the log. The sequence is that of the run's seed.
"""

import hashlib
import importlib.util
import logging
import os
import pickle
import random
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.runner import Runner
from tiny_run import ROOT

spec = importlib.util.spec_from_file_location('tool', ROOT / 'tools' / 'train.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def train(
    config: Path,
    work_dir: Path,
    moment: Optional[int] = None,
    options: Sequence[str] = (),
) -> None:
    """Train or resume in ``work_dir``; die at the event of this number.

    Beside the work directory grow ``.out`` (all output), ``.states`` (a line for each
    epoch, with a hash of all random states at its end) and, in a run to its end,
    ``.events`` (a line for each event).
    """
    with open(f'{work_dir}.out', 'a') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    events: list[str] = []

    def happen(label: str, die: Callable[[], None] = kill) -> None:
        events.append(re.sub(r'\d{8}_\d{6}', 'TIME', label))
        if len(events) - 1 == moment:
            die()

    watch_files(work_dir, happen)
    watch_hooks(Path(f'{work_dir}.states'), happen)
    watch_log(happen)
    status = tool.main([str(config), '--resume', '--work-dir', str(work_dir), *options])
    Path(f'{work_dir}.events').write_text('\n'.join(events))
    sys.exit(status)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing() -> None:
    """Let the kernel kill this process amid its next file of more than 10 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def watch_files(work_dir: Path, happen: Callable) -> None:
    def watch(event: str, arguments: tuple) -> None:
        if event not in ('open', 'os.rename', 'os.remove'):
            return
        path = arguments[1 if event == 'os.rename' else 0]
        if not str(path).startswith(f'{work_dir}{os.sep}'):
            return
        name = Path(path).name
        if event != 'open':
            happen(f'{event[3:]} {name}')
        elif arguments[2] & (os.O_WRONLY | os.O_RDWR):
            happen(f'open {name}')
            if name.endswith('.pth.part'):
                happen(f'write {name}', kill_while_writing)

    sys.addaudithook(watch)


def watch_hooks(states: Path, happen: Callable) -> None:
    call_hook = Runner.call_hook

    def watched(runner: Runner, name: str, **kwargs: object) -> None:
        happen(f'hook {name}')
        if name == 'after_train_epoch':
            states_now = random.getstate(), np.random.get_state(legacy=False)
            digest = hashlib.sha256(pickle.dumps(states_now))
            digest.update(torch.get_rng_state().numpy().tobytes())
            with states.open('a') as file:
                file.write(f'{runner.epoch} {digest.hexdigest()}\n')
        call_hook(runner, name, **kwargs)

    Runner.call_hook = watched


def watch_log(happen: Callable) -> None:
    emit = logging.FileHandler.emit

    def watched(handler: logging.FileHandler, record: logging.LogRecord) -> None:
        def half() -> None:
            handler.stream.write(handler.format(record)[:20])
            handler.stream.flush()
            kill()

        happen('log', half)
        emit(handler, record)

    logging.FileHandler.emit = watched
