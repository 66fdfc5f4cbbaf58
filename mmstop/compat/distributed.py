"""Patches for MMEngine in several processes: on a CPU, for metrics, and at the end."""

import gc
import logging
from collections.abc import Callable
from typing import Any

from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.hooks import logger_hook
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel
from torch import distributed as torch_dist

from .wrapping import patches

__all__ = ['end_process_group', 'launch_on_cpu', 'wrap_on_cpu', 'write_metrics_once']


@patches('_init_dist_pytorch', dist_utils)
def launch_on_cpu(
    original: Callable, backend: str, init_backend: str = 'torch', **kwargs: Any
) -> None:
    """Let ``--launcher pytorch`` start on a machine without a GPU.

    Symptom: ``RuntimeError: Found no NVIDIA driver`` (``AssertionError: Torch not
    compiled with CUDA enabled`` on a CPU build) from ``torch.cuda.set_device``.
    Versions: every known mmengine, 0.11.0rc0 included.
    Delete when ``mmengine.dist.init_dist('pytorch', 'gloo')`` passes on a CPU.
    """
    if get_device() != 'cpu' or init_backend != 'torch':
        return original(backend, init_backend=init_backend, **kwargs)
    is_nccl = backend == 'nccl'
    torch_dist.init_process_group('gloo' if is_nccl else backend, **kwargs)
    if is_nccl and torch_dist.get_rank() == 0:
        print_log(
            "got backend='nccl' on a machine without a GPU, using gloo; set "
            "env_cfg = dict(dist_cfg=dict(backend='gloo')) to choose it",
            logger='current',
            level=logging.WARNING,
        )


@patches('__init__', MMDistributedDataParallel)
def wrap_on_cpu(original: Callable, self: Any, *args: Any, **kwargs: Any) -> None:
    """Let MMEngine wrap a model for data-parallel training on the CPU.

    Symptom: ``ValueError: DistributedDataParallel device_ids and output_device
    arguments only work with single-device/multiple-device GPU modules or CPU modules``,
    since the Runner passes ``device_ids=[LOCAL_RANK]`` whatever the device.
    Versions: every known mmengine, 0.11.0rc0 included.
    Delete when ``Runner.wrap_model`` passes ``device_ids=None`` on a CPU.
    """
    if get_device() == 'cpu':
        kwargs['device_ids'] = None
    original(self, *args, **kwargs)


@patches('dump', logger_hook)
def write_metrics_once(original: Callable, *args: Any, **kwargs: Any) -> None:
    """Let only the main process write the metrics of a test.

    Symptom: occasionally ``work_dir/TIME/TIME.json`` holds ``{"acc/top1": 0.4}2}``,
    since all processes write it at the same time.
    Versions: every known mmengine.
    Delete when ``LoggerHook.after_test_epoch`` checks the rank.
    """
    if dist_utils.is_main_process():
        original(*args, **kwargs)


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
    if dist_utils.is_distributed():
        gc.collect()
        torch_dist.destroy_process_group()
