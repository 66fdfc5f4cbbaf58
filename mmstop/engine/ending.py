"""The end of a distributed process."""

import gc

# Its functions' default arguments are the process group of the moment it is imported.
# DDP imports it when there is one, which then lives on to the interpreter's end.
import torch.distributed.nn.functional  # noqa: F401
from mmengine.dist import is_distributed

__all__ = ['end_process_group']


def end_process_group() -> None:
    """End the process group and its threads, if there is one, before the process ends.

    Call it where all went well and nothing refers to the runner or the model any more:
    DDP holds the group, in a reference cycle.

    Symptom without it: in some runs "terminate called without an active exception", a
    SIGABRT of a rank that had finished, for which torchrun kills the others. A thread
    of gloo frees the tensors of the last collective and needs the interpreter's lock
    for it. Python before 3.14 unwinds a thread that asks for the lock while the
    interpreter ends, and C++ terminates the process where it may not be unwound.
    """
    if is_distributed():
        gc.collect()
        torch.distributed.destroy_process_group()
