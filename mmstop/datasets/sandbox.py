"""Try videos in processes of their own, which a decoder may hang or kill."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.pool import ThreadPool
from queue import SimpleQueue
from typing import Any, Optional

import decord

from .videos import explain

__all__ = ['try_videos']

Check = Callable[[str], Any]

# Its processes are started from one that has imported this module and nothing since.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload([__name__])


def try_videos(
    check: Check, paths: Sequence[str], workers: int, timeout: float
) -> Iterator[Optional[str]]:
    """Say of each video, in order, why it cannot be used; None where it can.

    Args:
        check: raises where a video cannot be used; a function of a module.
        workers: how many processes try videos at the same time, at least 1.
        timeout: seconds that one video may take.
    """
    idle: SimpleQueue[_Sandbox] = SimpleQueue()
    sandboxes = [_Sandbox(check, timeout) for _ in range(workers)]
    for sandbox in sandboxes:
        idle.put(sandbox)

    def attempt(path: str) -> Optional[str]:
        sandbox = idle.get()
        try:
            return sandbox.attempt(path)
        finally:
            idle.put(sandbox)

    try:
        with ThreadPool(workers) as threads:
            yield from threads.imap(attempt, paths)
    finally:
        for sandbox in sandboxes:
            sandbox.stop()


class _Sandbox:
    """A process that tries one video after the other, replaced when one ends it."""

    def __init__(self, check: Check, timeout: float) -> None:
        self.check = check
        self.timeout = timeout
        self.process: Any = None

    def attempt(self, path: str) -> Optional[str]:
        if self.process is None:
            self._start()
        try:
            self.pipe.send(path)
            if self.pipe.poll(self.timeout):
                return self.pipe.recv()
            fault = f'it was not decoded within {self.timeout:g} s'
        except (EOFError, OSError):  # the other end is gone
            self.process.join()
            fault = f'the decoder crashed ({_ending(self.process.exitcode)})'
        self.stop()
        return fault

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None

    def _start(self) -> None:
        self.pipe, other = CONTEXT.Pipe()
        self.process = CONTEXT.Process(
            target=_serve, args=(other, self.check), daemon=True
        )
        self.process.start()
        other.close()  # so that the end of the process is the end of the pipe
        self.pipe.recv()  # the time that it takes to start is not the video's


def _serve(pipe: Connection, check: Check) -> None:
    """Answer every path with a fault or None, until nobody asks any more."""
    decord.logging.set_level(decord.logging.QUIET)
    pipe.send(None)
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        try:
            check(path)
        except Exception as error:
            pipe.send(explain(error))
        else:
            pipe.send(None)


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f'exit status {status}'
