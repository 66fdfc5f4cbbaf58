"""The end of a distributed process."""

import gc

from mmengine.dist import is_distributed
from torch.distributed import destroy_process_group

__all__ = ['end_process_group']


def end_process_group() -> None:
    """End the process group and its threads, if any, before the process ends.

    Call this after a successful run, once no variable refers to the runner or the model
    any more. Their reference cycles keep DDP's reducer alive, and the reducer keeps the
    group alive. So the group survives ``destroy_process_group`` until the cycles are
    collected.

    Without this call, some runs fail with "terminate called without an active
    exception": a rank that had finished gets a SIGABRT, and torchrun kills the others.
    The cause is a gloo thread that frees the tensors of the last collective, for which
    it needs the GIL. Before Python 3.14, a thread that requests the GIL while the
    interpreter shuts down is unwound. Where it may not be unwound, C++ terminates the
    process.
    """
    if is_distributed():
        gc.collect()
        destroy_process_group()
