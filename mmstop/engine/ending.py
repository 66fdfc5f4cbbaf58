"""The end of a distributed process."""

import gc

from mmengine.dist import is_distributed
from torch.distributed import destroy_process_group

__all__ = ['end_process_group']


def end_process_group() -> None:
    """End the process group and its threads, if there is one, before the process ends.

    Call it where all went well and no variable holds the runner or the model any more.
    Their reference cycles hold DDP's reducer, and that the group, which lives on
    through ``destroy_process_group`` until they are collected.

    Symptom without it: in some runs "terminate called without an active exception", a
    SIGABRT of a rank that had finished, for which torchrun kills the others. A thread
    of gloo frees the tensors of the last collective and needs the interpreter's lock
    for it. Python before 3.14 unwinds a thread that asks for the lock while the
    interpreter ends, and C++ terminates the process where it may not be unwound.
    """
    if is_distributed():
        gc.collect()
        destroy_process_group()
