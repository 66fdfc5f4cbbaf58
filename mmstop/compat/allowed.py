"""The allow-list for checkpoints: stand-ins that make numbers, arrays and plain values.

Each replaces a Python, numpy or MMEngine name in the file. Allowing the real ones would
be unsafe. With ndarray(1, 'O', <bytes>), or a dtype with crafted flags, a file can make
numpy follow pointers of the file's choice. With bytes(2**31), or a codec that doubles
its input, a few bytes can fill the memory.
"""

import pickle
import re
from collections.abc import Callable
from typing import Any, Union

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import StorageType

__all__ = ['ALLOWED', 'STATISTICS', 'torch_names']

STATISTICS = ('min', 'max', 'mean', 'current')  # in every HistoryBuffer


class Dtype:
    """A numpy dtype in a checkpoint: numbers and bool only."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r'[biufc]\d+', str(code)):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r}) is not allowed')
        self.real = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.real = self.real.newbyteorder(state[1])  # all that numbers need


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
    """A HistoryBuffer read from a checkpoint, with the default statistics."""

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer  # type: ignore[assignment]
        history = state['_log_history'], state['_count_history']
        HistoryBuffer.__init__(self, *history, max_length=state['max_length'])


def build_scalar(dtype: Dtype, data: bytes) -> np.generic:
    """Stand in for ``numpy.core.multiarray.scalar``."""
    return np.frombuffer(data, dtype.real, count=1)[0]


def get_statistic(owner: type, name: str) -> Callable:
    """Stand in for ``getattr``, only for four methods of HistoryBuffer."""
    if owner is Buffer and name in STATISTICS:
        return getattr(HistoryBuffer, name)
    real = HistoryBuffer if owner is Buffer else owner
    where = f'{getattr(real, "__module__", "")}.{getattr(real, "__name__", real)}'
    raise pickle.UnpicklingError(f'GLOBAL {where}.{name} is not allowed')


def build_config_dict(items: dict) -> ConfigDict:
    """Stand in for ``ConfigDict``, which would copy everything nested in it."""
    config = ConfigDict()
    dict.update(config, items)
    return config


def encode(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, with which pickle stores bytes as text."""
    if type(text) is str and encoding == 'latin1':
        return text.encode(encoding)
    raise pickle.UnpicklingError(f'GLOBAL _codecs.encode({encoding!r}) is not allowed')


def build_bytes(data: Union[bytes, str] = b'', encoding: str = '') -> bytes:
    """Stand in for ``bytes``; accept content but not a size."""
    if type(data) is str:
        return encode(data, encoding.replace('-', ''))
    if type(data) is bytes:
        return data
    raise pickle.UnpicklingError(f'GLOBAL bytes({data!r:.20}) is not allowed')


def build_bytearray(data: Union[bytes, str] = b'', encoding: str = '') -> bytearray:
    """Stand in for ``bytearray``, as :func:`build_bytes` does for ``bytes``."""
    return bytearray(build_bytes(data, encoding))


ALLOWED: dict[str, Any] = {
    '_codecs.encode': encode,
    'builtins.bytearray': build_bytearray,
    'builtins.bytes': build_bytes,
    'builtins.getattr': get_statistic,
    'mmengine.config.config.ConfigDict': build_config_dict,  # in a dataset's metainfo
    'mmengine.logging.history_buffer.HistoryBuffer': Buffer,
    'numpy.dtype': Dtype,
    'numpy.ndarray': Array,
    'numpy._core.multiarray._reconstruct': Array,  # numpy 2
    'numpy._core.multiarray.scalar': build_scalar,
    'numpy.core.multiarray._reconstruct': Array,  # numpy 1
    'numpy.core.multiarray.scalar': build_scalar,
    # For tensors without their own storage type; only the dtype is read.
    'torch.storage.UntypedStorage': StorageType('ByteStorage'),
}


def torch_names() -> dict[str, Any]:
    """Return torch's default names, except those that take a size from the file."""
    sized = {*torch._tensor_classes, torch.Tensor, torch._utils._rebuild_qtensor}
    sized |= {torch.storage.TypedStorage, torch.storage.UntypedStorage}
    allowed = _get_allowed_globals().items()
    kept = {k: v for k, v in allowed if k not in ALLOWED}
    return {k: v for k, v in kept.items() if not any(v is one for one in sized)}
