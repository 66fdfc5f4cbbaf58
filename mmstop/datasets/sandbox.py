"""Work on files of strangers in processes that a decoder may hang or kill.

The processes are forked, as PyTorch's data workers are: they know what this one knows
at once, and have nothing to import. They are no defence against a decoder that is made
to run an attacker's code.
"""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple, Optional

import cv2
import torch

from .videos import explain

__all__ = ['TIMEOUT', 'Outcome', 'try_all', 'try_videos']

TIMEOUT = 600.0  # seconds that one piece of work may take
CONTEXT = multiprocessing.get_context('fork')
# A process must not inherit the end of a pipe by which another's death is noticed, and
# multiprocessing's book of processes is not for several threads.
FORKING = threading.Lock()


class Outcome(NamedTuple):
    """What became of a piece of work."""

    value: Any
    fault: Optional[str]  # why there is no value


def try_all(
    work: Callable[[Any], Any],
    tasks: Sequence,
    workers: int = 1,
    timeout: float = TIMEOUT,
    ahead: int = 0,
) -> Iterator[Outcome]:
    """Work on every task in another process and yield what becomes of it, in order.

    Args:
        work: its result, and the tasks, are pickled; where it raises, or its process
            dies or takes too long, the outcome has a fault and the next task is begun.
        workers: how many processes work at the same time, at least 1.
        timeout: seconds that one task may take.
        ahead: how many outcomes are made before they are asked for.
    """
    sandboxes = [_Sandbox(work, timeout) for _ in range(min(workers, len(tasks)))]
    idle: SimpleQueue[_Sandbox] = SimpleQueue()
    for sandbox in sandboxes:
        sandbox.start()
        idle.put(sandbox)

    def attempt(task: Any) -> Outcome:
        sandbox = idle.get()
        try:
            return sandbox.attempt(task)
        finally:
            idle.put(sandbox)

    threads = ThreadPoolExecutor(max(1, len(sandboxes)))
    begun: deque[Future[Outcome]] = deque()
    try:
        for task in tasks:
            begun.append(threads.submit(attempt, task))
            if len(begun) >= len(sandboxes) + ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for sandbox in sandboxes:
            sandbox.close()
        threads.shutdown()
        for sandbox in sandboxes:
            sandbox.stop()


def try_videos(
    check: Callable[[str], Any], paths: Sequence[str], workers: int, timeout: float
) -> Iterator[Optional[str]]:
    """Say of each video, in order, why it cannot be used; None where it can.

    Args:
        check: raises where a video cannot be used.
        workers, timeout: those of :func:`try_all`.
    """
    for outcome in try_all(check, paths, workers, timeout, ahead=workers):
        yield outcome.fault


class _Sandbox:
    """A process that does one task after the other, replaced when one ends it."""

    def __init__(self, work: Callable[[Any], Any], timeout: float) -> None:
        self.work = work
        self.timeout = timeout
        self.process: Any = None
        self.closed = False

    def start(self) -> None:
        with FORKING:
            if self.closed:
                raise CancelledError
            self.pipe, other = CONTEXT.Pipe()
            self.process = CONTEXT.Process(
                target=_serve, args=(other, self.work, os.getpid()), daemon=True
            )
            self.process.start()
            other.close()  # so that the end of the process is the end of the pipe

    def attempt(self, task: Any) -> Outcome:
        if self.process is None:
            self.start()
        try:
            self.pipe.send(task)
            if self.pipe.poll(self.timeout):
                return pickle.loads(self.pipe.recv_bytes())
            fault = f'it was not decoded within {self.timeout:g} s'
        except (EOFError, OSError):  # the other end is gone
            with FORKING:
                self.process.join()
            fault = f'the decoder crashed ({_ending(self.process.exitcode)})'
        self.stop()
        return Outcome(None, fault)

    def close(self) -> None:
        """End the process, whatever it is at, and start no other."""
        with FORKING:
            self.closed = True
            if self.process is not None:
                self.process.kill()

    def stop(self) -> None:
        with FORKING:
            if self.process is not None:
                self.process.kill()
                self.process.join()
                self.pipe.close()
                self.process = None


def _serve(pipe: Connection, work: Callable[[Any], Any], parent: int) -> None:
    """Answer every task with an outcome, until nobody asks any more."""
    _settle(parent)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer = pickle.dumps(Outcome(work(task), None), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # every decoder has exceptions of its own
            answer = pickle.dumps(Outcome(None, explain(error)))
        pipe.send_bytes(answer)


def _settle(parent: int) -> None:
    """Make a forked process one that may die alone and dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()
    # What decoders print on their way is of no use; what Python prints may be.
    sys.stderr = os.fdopen(os.dup(2), 'w', buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(OSError):  # where memory runs out, this process is to die
        with open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')
    # The threads of these were not forked, and waiting for them would never end.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this process, even in a decoder that hangs, when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f'exit status {status}'
