"""A safe checkpoint reader: it reads tensors and plain values and runs no code.

torch's own safe reader (``weights_only``) has one allow-list for the whole process.
This one uses a private copy of that reader, so that it does not interfere with what
other code allows, loads or sets in the environment, in any number of threads.
"""

import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import module_from_spec
from types import FunctionType, SimpleNamespace
from typing import IO, Any, Optional, Union

import torch
from torch import _weights_only_unpickler, serialization

from .allowed import ALLOWED, torch_names

__all__ = ['CheckpointError', 'read', 'read_structure']

Source = Union[str, os.PathLike, IO[bytes]]


class CheckpointError(pickle.UnpicklingError):
    """A checkpoint is damaged, or asks for more than tensors and plain values."""


RESAVE = (
    'A checkpoint is read as tensors and plain values and nothing in it is run; save '
    "it again without the rest: torch.save({'state_dict': model.state_dict()}, path)"
)
RENEW = 'Expected a whole file as torch.save writes it; copy, download or save it again'
ZIP, PICKLE = b'PK', b'\x80'  # first bytes of torch.save's new and old file formats


def read(source: Source, map_location: Any = None, mmap: bool = False) -> Any:
    """Read a checkpoint, using no more memory than the size of the file.

    ``meta['config']`` is removed, since MMEngine would run its text when it resumes.

    Args:
        source: a path, or a file that is open for reading.
        map_location, mmap: as in ``torch.load``.

    Raises:
        CheckpointError: the file is damaged, or holds more than data.
    """
    try:
        content = _load(source, map_location, mmap)
    except Exception as error:
        complaint = _explain(source, error)
        if complaint is None:
            raise
    else:
        complaint = _check_entries(content)
    if complaint is not None:
        is_path = isinstance(source, (str, os.PathLike))
        raise CheckpointError(f'{source if is_path else "checkpoint"} {complaint}')
    return content


def read_structure(path: str) -> Any:
    """Read a local checkpoint, without the tensors' values if it has the zip format.

    Raises:
        CheckpointError: the file is damaged, not a checkpoint, or holds more than data.
    """
    skips = zipfile.is_zipfile(path)  # the old format can only be read completely
    return read(path, map_location='meta' if skips else 'cpu', mmap=skips)


def _check_entries(content: Any) -> Optional[str]:
    """Describe the first checkpoint entry of a wrong type; None if all are right."""
    if not isinstance(content, dict):
        return None
    for name in ('state_dict', 'ema_state_dict', 'meta', 'message_hub'):
        entry = content.get(name, {})
        if entry is None and name != 'state_dict':
            continue
        if not isinstance(entry, dict) or not all(type(key) is str for key in entry):
            kind = type(entry).__name__
            return f'holds a {kind} as its {name}, expected a dict with names. {RENEW}'
        if not isinstance(getattr(entry, '_metadata', {}), dict):
            return f'holds a {name} whose _metadata is not a dict. {RENEW}'
    (content.get('meta') or {}).pop('config', None)
    return None


# -- torch's reader, with a separate allow-list ----------------------------------------


@cache
def _copy_unpickler() -> Any:
    spec: Any = _weights_only_unpickler.__spec__
    copy: Any = module_from_spec(spec)
    spec.loader.exec_module(copy)
    others = _weights_only_unpickler._get_user_allowed_globals
    copy._get_allowed_globals = cache(torch_names)
    copy._get_user_allowed_globals = lambda: {**others(), **ALLOWED}
    return copy


def _make_unpickler(limit: int) -> type:
    """Make an unpickler class for a file of ``limit`` bytes."""

    base: Any = _copy_unpickler().Unpickler

    class Unpickler(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._sizes: dict[Any, int] = {}

        @property
        def persistent_load(self) -> Callable:
            return self._load_storage

        @persistent_load.setter
        def persistent_load(self, load: Callable) -> None:
            self._load = load

        def _load_storage(self, pid: Any) -> Any:
            _, kind, key, _, count, *_ = pid
            self._sizes[key] = max(0, count) * torch._utils._element_size(kind.dtype)
            if count < 0 or sum(self._sizes.values()) > limit:
                raise pickle.UnpicklingError('its tensors are larger than the file')
            return self._load(pid)

    return Unpickler


def _load(source: Any, map_location: Any, mmap: bool) -> Any:
    """Call ``torch.load`` with our unpickler instead of torch's."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, 'rb') as file:
            limit = _check_archive(file)
    else:
        limit = _check_archive(source)
    unpickler = _make_unpickler(limit)

    def load(file: IO[bytes], encoding: str = 'ASCII') -> Any:
        return unpickler(file, encoding=encoding).load()

    reader = SimpleNamespace(Unpickler=unpickler, load=load)
    names = {**vars(serialization), '_weights_only_unpickler': reader}
    for name in ('load', '_load', '_legacy_load'):
        function = getattr(serialization, name)
        copy = FunctionType(function.__code__, names, name, function.__defaults__)
        copy.__kwdefaults__ = function.__kwdefaults__
        names[name] = copy
    return names['load'](source, map_location, weights_only=True, mmap=mmap)


def _check_archive(file: IO[bytes]) -> int:
    """Return the size of a file; reject an archive that would unpack to more."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4) == b'PK\3\4':
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
        if any(r.filename.endswith('/constants.pkl') for r in records):
            raise pickle.UnpicklingError('it is a TorchScript archive')
        # If the first record is not at the start, a second list of records could hide
        # before it.
        if sum(r.file_size for r in records) > size or records[0].header_offset:
            raise pickle.UnpicklingError('it unpacks to more than its size')
    file.seek(0)
    return size


# -- What is wrong with a file ---------------------------------------------------------


def _explain(source: Any, error: Exception) -> Optional[str]:
    """Describe what is wrong with a file and the remedy; None if the file is fine."""
    if not isinstance(source, (str, os.PathLike)):
        source.seek(0)
        head, path = source.read(64), ''
    elif not os.path.isfile(source):
        return None
    else:
        path = os.fspath(source)
        with open(path, 'rb') as file:
            head = file.read(64)
    try:
        _load(source, 'cpu', False)
        return None  # for example, a missing GPU
    except Exception as again:
        error = again

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
        return f'is not a checkpoint, it starts with {line!r}. {RENEW}'
    return f'cannot be read: {reason.strip().splitlines()[0]}. {RENEW}'


def _imports(path: str) -> list[str]:
    """List the imports in a plain pickle's opcodes; torch cannot read protocol 4."""
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
