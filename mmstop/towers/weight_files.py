"""Read the files of CLIP weights as data, whoever wrote them."""

import pickle
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import load_file
from torch import Tensor

from mmstop.errors import ConfigError

__all__ = ['OPENAI_EXTRAS', 'read_weights']

# Keys found only in the TorchScript archives that OpenAI published.
OPENAI_EXTRAS = {'input_resolution', 'context_length', 'vocab_size'}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may contain.

    Raises:
        ValueError: the file is not a weights file, or holds more than tensors.
    """
    state: Any
    try:
        if path.suffix == '.safetensors':
            state = load_file(path)
        elif _is_torchscript(path):
            state = _read_torchscript(path)
        else:
            state = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    except Exception as error:
        raise ConfigError(
            f'{path} cannot be read as CLIP weights ({error}); give an OpenAI .pt '
            f'archive, an open_clip .safetensors file or a .pt file that holds '
            f'nothing but tensors'
        ) from error
    if isinstance(state, dict):
        state = state.get('state_dict', state)
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ConfigError(
            f'{path} holds something other than named tensors; save the state_dict of '
            f'the CLIP model'
        )
    return {key.removeprefix('module.'): value for key, value in state.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


class _Bag:
    """Stand-in for every module class that an archive names; it holds attributes."""

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)


class _TorchScriptUnpickler(pickle._Unpickler):  # type: ignore[misc]
    """Rebuild an archive's tensors; classes become bags and no code is run.

    It extends Python's unpickler, since the C one allocates memory for any memo index
    that a file names.
    """

    ALLOWED = {
        ('collections', 'OrderedDict'): OrderedDict,
        ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
        ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
        ('torch', 'FloatStorage'): torch.float32,
        ('torch', 'HalfStorage'): torch.float16,
        ('torch', 'LongStorage'): torch.int64,
    }

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f'{root}/data.pkl'))
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.UntypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith('__torch__'):
            return _Bag
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        found = self.ALLOWED[module, name]
        # Return a new partial, since a file may set attributes on what it is given.
        return partial(found) if isinstance(found, FunctionType) else found

    def persistent_load(self, pid: tuple) -> torch.storage.TypedStorage:
        _, dtype, key, _, _ = pid
        if key not in self._storages:  # an archive may refer to one repeatedly
            data = bytearray(self._archive.read(f'{self._root}/data/{key}'))
            storage = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
            self._storages[key] = storage
        return torch.storage.TypedStorage(
            wrap_storage=self._storages[key], dtype=dtype, _internal=True
        )


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a TorchScript archive as data.

    ``torch.jit.load`` would run the archive's own code, and is deprecated.
    """
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split('/')[0]
        _check_sizes(archive, path.stat().st_size)
        return dict(_tensors(_TorchScriptUnpickler(archive, root).load(), ''))


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse data that would unpack to more than the file's size; code is not read."""
    records = [r for r in archive.infolist() if '/code/' not in r.filename]
    unfolded = sum(record.file_size for record in records)
    if unfolded > size:
        raise pickle.UnpicklingError(f'its {size:,} bytes unpack to {unfolded:,}')


def _tensors(bag: _Bag, prefix: str) -> list[tuple[str, Tensor]]:
    found = []
    for name, value in vars(bag).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Bag):
            found += _tensors(value, f'{prefix}{name}.')
    return found
