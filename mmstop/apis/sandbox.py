"""Process untrusted files in worker processes, which a decoder may hang or crash.

The processes are forked, like PyTorch's data workers, so they share this process's
state and import nothing. They do not protect against a file that makes the decoder run
an attacker's code.
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

from mmstop.datasets.loading import explain

__all__ = ['TIMEOUT', 'Outcome', 'try_all', 'try_videos']

TIMEOUT = 600.0  # seconds that one task may take
CONTEXT = multiprocessing.get_context('fork')
# A process must not inherit the pipe end that signals the death of another one, and
# multiprocessing's list of processes is not thread-safe.
FORKING = threading.Lock()


class Outcome(NamedTuple):
    """The result of a task."""

    value: Any
    fault: Optional[str]  # the reason if there is no value


def try_all(
    work: Callable[[Any], Any],
    tasks: Sequence,
    workers: int = 1,
    timeout: float = TIMEOUT,
    ahead: int = 0,
) -> Iterator[Outcome]:
    """Run every task in another process and yield the outcomes in order.

    Args:
        work: function to apply to each task. Tasks and results are pickled. If it
            raises, or its process dies or times out, the outcome has a fault and the
            next task starts.
        workers: number of concurrent processes, at least 1.
        timeout: seconds that one task may take.
        ahead: number of outcomes to compute before they are requested.
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
    """Yield for each video, in order, why it cannot be used, or None if it can.

    Args:
        check: function that raises if a video cannot be used.
        workers, timeout: as in :func:`try_all`.
    """
    for outcome in try_all(check, paths, workers, timeout, ahead=workers):
        yield outcome.fault


class _Sandbox:
    """A process that runs tasks one by one; it is replaced if a task ends it."""

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
            other.close()  # so that the pipe closes when the process ends

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
        """Kill the process, even during a task, and start no other."""
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
    """Answer every task with an outcome until the pipe closes."""
    _settle(parent)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer = pickle.dumps(Outcome(work(task), None), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # every decoder has its own exceptions
            answer = pickle.dumps(Outcome(None, explain(error)))
        pipe.send_bytes(answer)


def _settle(parent: int) -> None:
    """Let a forked process die without its parent, but not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()
    # Decoders' own messages are of no use, but Python's may be.
    sys.stderr = os.fdopen(os.dup(2), 'w', buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(OSError):  # if memory runs out, this process should be killed
        with open('/proc/self/oom_score_adj', 'w') as file:
            file.write('1000')
    # The thread pools of these were not forked; waiting for them would never end.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this process when its parent has ended, even if a decoder hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f'exit status {status}'
