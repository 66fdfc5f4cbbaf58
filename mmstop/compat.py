"""Mends for what is broken in released versions of the packages below us.

One function per mend. Each says the symptom, the versions that show it and when it can
be deleted; ``tests/test_compat.py`` shows every symptom without the mend, so a test
fails on the day a mend is no longer needed. :func:`apply` runs them all, once, before
anything else in ``mmstop`` is imported. It imports torch, MMEngine and, only beside a
breaking transformers, ``mmaction.utils``; never ``mmaction.models``.

``pkg_resources``, which MMEngine imports and setuptools 82 removed, is not mended here:
a config's ``_base_`` is resolved before any code of ours can run, so the requirement
``setuptools<82`` is the remedy.
"""

import functools
import logging
import os
import pickle
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from inspect import ismethod
from types import ModuleType
from typing import Any, Optional

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.hooks import logger_hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import distributed as torch_dist
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

__all__ = ['CheckpointError', 'apply', 'read_structure']


@functools.cache
def apply() -> None:
    """Apply every mend; a second call does nothing."""
    find_missing_drn()
    load_checkpoints_as_data()
    skip_vindlu()
    launch_on_cpu()
    wrap_on_cpu()
    write_metrics_once()


def _wrap(owner: Any, name: str, mend: Callable) -> None:
    """Put ``mend(original, ...)`` in the place of a function or class method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def mended(*args: Any, **kwargs: Any) -> Any:
        return mend(original, *args, **kwargs)

    setattr(owner, name, staticmethod(mended) if ismethod(original) else mended)


# -- MMAction2: a package missing from the wheel ---------------------------------------


class DRN:
    """Stand in for MMAction2's DRN, which cannot be built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            'got type DRN, but the mmaction2 1.2.0 wheel on PyPI was released without '
            'mmaction/models/localizers/drn; to train DRN install MMAction2 from source'
        )


class DRNFinder(MetaPathFinder, Loader):
    """Find ``mmaction.models.localizers.drn`` when nobody before us does."""

    package = 'mmaction.models.localizers.drn'

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]],
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if fullname not in (self.package, f'{self.package}.drn'):
            return None
        return spec_from_loader(fullname, self, is_package=fullname == self.package)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ != self.package:
            from mmaction.registry import MODELS  # importing the caller brought it in

            module.DRN = MODELS.register_module(module=DRN)  # type: ignore[attr-defined]


def find_missing_drn() -> None:
    """Let ``import mmaction.models`` pass without its DRN localizer.

    Symptom: ``ModuleNotFoundError: No module named 'mmaction.models.localizers.drn'``.
    Versions: mmaction2 1.2.0 from PyPI. Its source checkout has the directory, and as
    our finder is asked last, a real module always wins.
    Delete when a release of mmaction2 contains ``models/localizers/drn``.
    """
    sys.meta_path.append(DRNFinder())


# -- MMEngine: checkpoints under weights_only ------------------------------------------


class CheckpointError(pickle.UnpicklingError):
    """A checkpoint that is damaged, or asks for more than tensors and plain values."""


# The stand-ins below take the places of the numpy and MMEngine names in a checkpoint.
# Allowing the real ones would not do: with ndarray(1, 'O', <bytes>), or with a dtype of
# its own flags, a file makes numpy follow pointers that the file chooses.


class Dtype:
    """A numpy dtype as a checkpoint spells it: numbers and bool only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r'[biufc]\d+', str(code)):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r}) is not allowed')
        self.real = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.real = self.real.newbyteorder(state[1])  # all that numbers need of it


class Array(np.ndarray):
    """An array that a checkpoint can fill with numbers; pickles as a plain array."""

    def __new__(cls, *args: Any) -> 'Array':
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        array = np.frombuffer(data, dtype.real)
        array = array.reshape(shape, order='F' if is_fortran else 'C')
        checked: Any = array.__reduce__()[2]
        super().__setstate__(checked)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


class Buffer(HistoryBuffer):
    """A HistoryBuffer on its way out of a checkpoint, with its default statistics."""

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer  # type: ignore[assignment]
        history = state['_log_history'], state['_count_history']
        HistoryBuffer.__init__(self, *history, max_length=state['max_length'])


def build_scalar(dtype: Dtype, data: bytes) -> np.generic:
    """Stand in for ``numpy.core.multiarray.scalar``."""
    return np.frombuffer(data, dtype.real, count=1)[0]


def get_statistic(owner: type, name: str) -> Callable:
    """Stand in for ``getattr``: four methods of HistoryBuffer and nothing else."""
    if owner is Buffer and name in STATISTICS:
        return getattr(HistoryBuffer, name)
    real = HistoryBuffer if owner is Buffer else owner
    where = f'{getattr(real, "__module__", "")}.{getattr(real, "__name__", real)}'
    raise pickle.UnpicklingError(f'GLOBAL {where}.{name} is not allowed')


STATISTICS = ('min', 'max', 'mean', 'current')
ALLOWED: dict[str, Callable] = {
    'builtins.bytes': bytes,  # the data of an empty array
    'builtins.getattr': get_statistic,
    'mmengine.config.config.ConfigDict': ConfigDict,  # nested metainfo of a dataset
    'mmengine.logging.history_buffer.HistoryBuffer': Buffer,
    'numpy.dtype': Dtype,
    'numpy.ndarray': Array,
    'numpy._core.multiarray._reconstruct': Array,  # numpy 2
    'numpy._core.multiarray.scalar': build_scalar,
    'numpy.core.multiarray._reconstruct': Array,  # numpy 1
    'numpy.core.multiarray.scalar': build_scalar,
}
SAFE_GLOBALS: list[Any] = [(used, name) for name, used in ALLOWED.items()]
RESAVE = (
    'A checkpoint is read as tensors and plain values and nothing in it is run; save '
    "it again without the rest: torch.save({'state_dict': model.state_dict()}, path)"
)
RENEW = 'Expected a whole file as torch.save writes it; copy, download or save it again'
ZIP, PICKLE = b'PK', b'\x80'  # how torch.save's files start, the new ones and the old


def load_checkpoints_as_data() -> None:
    """Read every checkpoint with ``weights_only``, those of MMEngine included.

    Symptom: ``_pickle.UnpicklingError: Weights only load failed`` on resume, test and
    ``init_recognizer``, because of the log history in what MMEngine saves. Also, from a
    URL, and in 0.11.0rc0 from anywhere, MMEngine loads with ``weights_only=False``,
    which runs whatever code a file holds.
    Versions: torch >= 2.6 with every known mmengine.
    Delete the allow-list when MMEngine has one, the rest when it passes
    ``weights_only=True`` and says which file it refuses.
    """
    add_safe_globals(SAFE_GLOBALS)
    _wrap(CheckpointLoader, 'load_checkpoint', _load_checkpoint)


def _load_checkpoint(load: Callable, filename: str, *args: Any, **kwargs: Any) -> Any:
    try:
        with _weights_only():
            return load(filename, *args, **kwargs)
    except Exception as error:
        complaint = _explain(filename, error)
        if complaint is None:
            raise
    raise CheckpointError(f'{filename} {complaint}')


def read_structure(path: str) -> Any:
    """Read a local checkpoint, of today's files all but the numbers.

    Raises:
        CheckpointError: the file is damaged, no checkpoint, or not only data.
    """

    def read(path: str) -> Any:
        skips = zipfile.is_zipfile(path)  # the old files are read in one piece
        return torch.load(path, map_location='meta' if skips else 'cpu', mmap=skips)

    return _load_checkpoint(read, path)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let torch.load read data only, by our allow-list where another one differs.

    The environment variable is torch's own way to overrule a caller, even one that
    passes ``weights_only=False``; its opposite is put aside for the time.
    """
    force, forbid = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    asked = {name: os.environ.pop(name, None) for name in (force, forbid)}
    before = get_safe_globals()
    clear_safe_globals()
    spelled = [
        item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}'
        for item in before
    ]
    add_safe_globals([g for g, name in zip(before, spelled) if name not in ALLOWED])
    add_safe_globals(SAFE_GLOBALS)
    os.environ[force] = '1'
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({k: v for k, v in asked.items() if v is not None})
        clear_safe_globals()
        add_safe_globals(before)


def _explain(filename: str, error: Exception) -> Optional[str]:
    """Say what is wrong with a file and what to do; None if it is not the file."""
    path = os.path.expanduser(str(filename))
    if os.path.isfile(path):
        with open(path, 'rb') as file:
            head = file.read(64)
        try:
            with _weights_only():
                torch.load(path, map_location='cpu')
            return None  # a missing GPU, for one
        except Exception as again:
            error = again
    elif isinstance(error, (EOFError, pickle.UnpicklingError)):
        head = PICKLE  # of a download, which is out of sight
    else:
        return None

    reason = (str(error) or type(error).__name__).split('WeightsUnpickler error: ')[-1]
    if isinstance(error, pickle.UnpicklingError):
        names = re.findall(r'GLOBAL (.+?) (?:was|is|whose) ', reason)
        if names := names or _imports(path):
            return f'asks for {", ".join(names)}. {RESAVE}'
    if re.search(r'TorchScript archive|legacy \.tar', reason):
        return f'is a TorchScript archive or a tar file. {RESAVE}'
    if not head:
        return f'is empty. {RENEW}'
    if not head.startswith((ZIP, PICKLE)) and not path.endswith('.safetensors'):
        line = head.decode('latin-1').strip().split('\n')[0]
        return f'is no checkpoint, it starts with {line!r}. {RENEW}'
    return f'cannot be read: {reason.strip().splitlines()[0]}. {RENEW}'


def _imports(path: str) -> list[str]:
    """List what a plain pickle imports, by its opcodes; torch stops at protocol 4."""
    names: list[str] = []
    strings: list[str] = []
    with suppress(OSError, ValueError), open(path, 'rb') as file:
        for op, arg, _ in pickletools.genops(file):
            if op.name in ('GLOBAL', 'INST'):
                names.append(str(arg).replace(' ', '.'))
            elif op.name == 'STACK_GLOBAL':
                names.append('.'.join(strings[-2:]))
            elif isinstance(arg, str):
                strings.append(arg)
    return [name for name in names if not name.startswith(('collections.', 'torch.'))]


# -- MMAction2: transformers -----------------------------------------------------------


def skip_vindlu() -> None:
    """Keep MMAction2 from importing VindLU beside a transformers it cannot use.

    Symptom: ``ImportError: cannot import name 'apply_chunking_to_forward' from
    'transformers.modeling_utils'`` at ``import mmaction.models``. With the mend VindLU
    is the placeholder that people without transformers get.
    Versions: transformers >= 4.56 with mmaction2 <= 1.2.0.
    Delete when a later mmaction2 is required.
    """
    try:
        found = metadata.version('transformers')
    except metadata.PackageNotFoundError:
        return
    if digit_version(found) < digit_version('4.56'):
        return
    try:
        import mmaction
        from mmaction.utils import dependency
    except ImportError:  # who needs MMAction2 will be told what it lacks
        return
    if digit_version(mmaction.__version__) <= digit_version('1.2.0'):
        dependency.WITH_MULTIMODAL = False


# -- MMEngine: data-parallel training without a GPU ------------------------------------


def launch_on_cpu() -> None:
    """Let ``--launcher pytorch`` start on a machine without a GPU.

    Symptom: ``RuntimeError: Found no NVIDIA driver`` (``AssertionError: Torch not
    compiled with CUDA enabled`` on a CPU build) from ``torch.cuda.set_device``.
    Versions: every known mmengine, 0.11.0rc0 included.
    Delete when ``mmengine.dist.init_dist('pytorch', 'gloo')`` passes on a CPU.
    """
    _wrap(dist_utils, '_init_dist_pytorch', _init_dist_pytorch)


def _init_dist_pytorch(
    original: Callable, backend: str, init_backend: str = 'torch', **kwargs: Any
) -> None:
    if get_device() != 'cpu' or init_backend != 'torch':
        return original(backend, init_backend=init_backend, **kwargs)
    is_nccl = backend == 'nccl'
    torch_dist.init_process_group('gloo' if is_nccl else backend, **kwargs)
    if is_nccl and torch_dist.get_rank() == 0:
        print_log(
            "got backend='nccl' on a machine without a GPU, using gloo; say "
            "env_cfg = dict(dist_cfg=dict(backend='gloo')) to choose it",
            logger='current',
            level=logging.WARNING,
        )


def wrap_on_cpu() -> None:
    """Let MMEngine wrap a model for data-parallel training on the CPU.

    Symptom: ``ValueError: DistributedDataParallel device_ids and output_device
    arguments only work with single-device/multiple-device GPU modules or CPU modules``,
    as the Runner passes ``device_ids=[LOCAL_RANK]`` whatever the device.
    Versions: every known mmengine, 0.11.0rc0 included.
    Delete when ``Runner.wrap_model`` passes ``device_ids=None`` on a CPU.
    """
    _wrap(MMDistributedDataParallel, '__init__', _init_ddp)


def _init_ddp(original: Callable, self: Any, *args: Any, **kwargs: Any) -> None:
    if get_device() == 'cpu':
        kwargs['device_ids'] = None
    original(self, *args, **kwargs)


# -- MMEngine: metrics of several processes --------------------------------------------


def write_metrics_once() -> None:
    """Let the first process of several write the metrics of a test, and no other.

    Symptom: now and then ``work_dir/TIME/TIME.json`` holds ``{"acc/top1": 0.4}2}``, as
    all processes write it at the same time.
    Versions: every known mmengine.
    Delete when ``LoggerHook.after_test_epoch`` asks for the rank.
    """
    _wrap(logger_hook, 'dump', _dump)


def _dump(original: Callable, *args: Any, **kwargs: Any) -> None:
    if dist_utils.is_main_process():
        original(*args, **kwargs)
