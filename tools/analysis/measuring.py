"""What the benchmarks share: time in rounds, peak memory, and fresh processes."""

import ctypes
import gc
import os
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

# Otherwise a process keeps small freed allocations, which would hide a later peak.
MALLOC = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}
Name = TypeVar('Name', bound=Hashable)


def positive(text: str) -> int:
    """Read a command-line argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'{text}: it must be a whole number of at least 1')
    return int(text)


def timed(work: Callable, *args: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work(*args)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def rounds(
    works: Mapping[Name, Callable[[], Any]], repeats: int
) -> dict[Name, list[float]]:
    """Time some workloads in turns: {name: seconds of each round}.

    So if the machine is slower for a while, it affects all workloads equally. Before
    these rounds, there is one that does not count.
    """
    turns = [
        {n: timed(work)[0] for n, work in works.items()} for _ in range(1 + repeats)
    ]
    return {name: [turn[name] for turn in turns[1:]] for name in works}


def alone(work: Callable, *args: Any) -> Any:
    """Call a function in a fresh process, with as many threads as here."""
    os.environ.update(MALLOC)
    with ProcessPoolExecutor(
        1,
        mp_context=get_context('spawn'),
        initializer=torch.set_num_threads,
        initargs=(torch.get_num_threads(),),
    ) as pool:
        return pool.submit(work, *args).result()


def added_mb(work: Callable[[], Any], device: str = 'cpu') -> float:
    """Return the peak memory in MB that a call adds.

    On the CPU this is Linux's high-water mark of the resident memory. Unlike the one of
    ``getrusage``, it can be reset after the inputs are made.
    """
    gc.collect()
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    # Freed memory that the C library keeps would hide new allocations.
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    before = resident_mb('VmRSS')
    work()
    return resident_mb('VmHWM') - before


def resident_mb(key: str) -> float:
    """Return a line of Linux's /proc/self/status that counts memory."""
    lines = Path('/proc/self/status').read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6
