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
from contextlib import nullcontext, suppress
from functools import cache
from importlib.util import module_from_spec
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import IO, Any

import torch
from torch import _weights_only_unpickler, serialization

from mmstop.errors import CheckpointError

from .allowed import ALLOWED, torch_names

__all__ = ['CheckpointError', 'read', 'read_structure']

RESAVE = (
    'A checkpoint is read as tensors and plain values and nothing in it is run; save '
    "it again without the rest: torch.save({'state_dict': model.state_dict()}, path)"
)
RENEW = 'Expected a whole file as torch.save writes it; copy, download or save it again'
ZIP, PICKLE = b'PK', b'\x80'  # first bytes of torch.save's new and old file formats


def read(source: Any, map_location: Any = None, mmap: bool = False) -> Any:
    """Read a checkpoint, using no more memory than the size of the file.

    ``meta['config']`` is removed, since MMEngine would run its text when it resumes.

    Args:
        source: a path, or a file that is open for reading.
        map_location, mmap: as in ``torch.load``.

    Raises:
        CheckpointError: the file is damaged, or holds more than data.
    """
    is_path = isinstance(source, (str, os.PathLike))
    opened: Any = Path(source).open('rb') if is_path else nullcontext(source)
    with opened as file:
        try:
            limit = _check_file(file)
            file.seek(0)
            content = _load(source, limit, map_location, mmap)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if re.search('deserialize object|restore data location', str(error)):
                raise  # for example, a missing GPU
            complaint = _explain(file, error)
        else:
            complaint = _check_entries(content)
    if complaint:
        raise CheckpointError(f'{source if is_path else "checkpoint"} {complaint}')
    return content


def read_structure(path: str) -> Any:
    """Read a local checkpoint, without the tensors' values if it has the zip format.

    Raises:
        CheckpointError: the file is damaged, not a checkpoint, or holds more than data.
    """
    skips = zipfile.is_zipfile(path)  # the old format can only be read completely
    return read(path, map_location='meta' if skips else 'cpu', mmap=skips)


def _check_file(file: IO[bytes]) -> int:
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
    return size


def _check_entries(content: Any) -> str:
    """Describe the first checkpoint entry of a wrong type; '' if all are right."""
    if not isinstance(content, dict):
        return ''
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
    return ''


# -- torch's reader, with a separate allow-list ----------------------------------------


@cache
def _copy_unpickler() -> Any:
    spec: Any = _weights_only_unpickler.__spec__
    copy: Any = module_from_spec(spec)
    spec.loader.exec_module(copy)
    others = _weights_only_unpickler._get_user_allowed_globals
    copy._get_allowed_globals = cache(torch_names)
    copy._get_user_allowed_globals = lambda: {**others(), **ALLOWED}
    return copy.Unpickler


def _load(source: Any, limit: int, map_location: Any, mmap: bool) -> Any:
    """Call ``torch.load`` with our unpickler instead of torch's.

    Args:
        limit: size of the file in bytes, which its tensors may not exceed.
    """
    base: Any = _copy_unpickler()

    class Unpickler(base):
        persistent_load: Any

        def load(self) -> Any:
            if hasattr(self, 'persistent_load'):
                self.persistent_load = _limited(self.persistent_load, limit)
            return super().load()

    def load(file: IO[bytes], encoding: str = 'ASCII') -> Any:
        return Unpickler(file, encoding=encoding).load()

    reader = SimpleNamespace(Unpickler=Unpickler, load=load)
    names = {**vars(serialization), '_weights_only_unpickler': reader}
    for name in ('load', '_load', '_legacy_load'):
        function = getattr(serialization, name)
        copy = FunctionType(function.__code__, names, name, function.__defaults__)
        copy.__kwdefaults__ = function.__kwdefaults__
        names[name] = copy
    return names['load'](source, map_location, weights_only=True, mmap=mmap)


def _limited(load_storage: Any, limit: int) -> Any:
    """Let a function that loads a file's storages load ``limit`` bytes at most."""
    sizes: dict[Any, int] = {}

    def load(pid: Any) -> Any:
        _, kind, key, _, count, *_ = pid
        sizes[key] = max(0, count) * torch._utils._element_size(kind.dtype)
        if count < 0 or sum(sizes.values()) > limit:
            raise pickle.UnpicklingError('its tensors are larger than the file')
        return load_storage(pid)

    return load


# -- What is wrong with a file ---------------------------------------------------------


def _explain(file: IO[bytes], error: Exception) -> str:
    """Describe what is wrong with a file, and the remedy."""
    file.seek(0)
    head = file.read(64)
    reason = (str(error) or type(error).__name__).split('WeightsUnpickler error: ')[-1]
    if not head:
        return f'is empty. {RENEW}'
    if isinstance(error, pickle.UnpicklingError):
        names = re.findall(r'GLOBAL (.+?) (?:was|is|whose) ', reason)
        if names := names or _imports(file):
            return f'asks for {", ".join(names)}. {RESAVE}'
    if re.search(r'TorchScript archive|legacy \.tar', reason):
        return f'is a TorchScript archive or a tar file. {RESAVE}'
    if not head.startswith((ZIP, PICKLE)):
        line = head.decode('latin-1').strip().split('\n')[0]
        return f'is not a checkpoint, it starts with {line!r}. {RENEW}'
    return f'cannot be read: {reason.strip().splitlines()[0]}. {RENEW}'


def _imports(file: IO[bytes]) -> list[str]:
    """List the imports in a plain pickle's opcodes; torch cannot read protocol 4."""
    file.seek(0)
    names: list[str] = []
    strings: list[str] = []
    with suppress(ValueError):
        for op, arg, _ in pickletools.genops(file):
            if op.name in ('GLOBAL', 'INST'):
                names.append(str(arg).replace(' ', '.'))
            elif op.name == 'STACK_GLOBAL':
                names.append('.'.join(strings[-2:]))
            elif isinstance(arg, str):
                strings.append(arg)
    return [name for name in names if not name.startswith(('collections.', 'torch.'))]
