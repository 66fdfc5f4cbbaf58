"""The end of a distributed process."""

import logging
import os
import sys

import torch
from mmengine.dist import is_distributed
from mmengine.runner import Runner

__all__ = ['end_process']


def end_process(runner: Runner) -> None:
    """End a process of a distributed run at once, after its work; else do nothing.

    Symptom without it: in some runs "terminate called without an active exception", a
    SIGABRT of a rank that had finished, for which torchrun then kills the others. C++
    threads outlive the interpreter's end; nothing of ours is left to be done there.
    """
    if not is_distributed():
        return
    runner.visualizer.close()
    torch.distributed.destroy_process_group()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
