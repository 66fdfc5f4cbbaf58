"""Patches for MMEngine's checkpoints, so that it treats their content as data only."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Optional
from urllib.parse import urlparse

import torch
from mmengine import runner as runners
from mmengine.hooks import CheckpointHook
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner, _flexible_runner, checkpoint, runner

from .allowed import STATISTICS
from .reader import read
from .wrapping import patches

__all__ = [
    'find_beside_pointer',
    'keep_to_own_folder',
    'own_name',
    'read_as_data',
    'run_no_stored_config',
    'save_default_statistics',
]


class Torch(ModuleType):
    """The torch module for MMEngine's checkpoint loaders, with a safe ``load``."""

    @staticmethod
    def load(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
        return read(file, map_location)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def read_as_data() -> None:
    """Let MMEngine read every checkpoint with :func:`mmstop.compat.reader.read`.

    Symptom: ``_pickle.UnpicklingError: Weights only load failed`` on resume, test and
    ``init_recognizer``, because of the log history that MMEngine saves. Also, MMEngine
    loads from URLs, and in 0.11.0rc0 from anywhere, with ``weights_only=False``, which
    runs any code in the file.
    Versions: torch >= 2.6 with every known mmengine.
    Delete when MMEngine passes ``weights_only=True`` with its own allow-list.
    """
    checkpoint.torch = Torch('torch')


@patches('load_url', checkpoint)
def read_url_as_data(
    original: Callable,
    url: str,
    model_dir: Optional[str] = None,
    map_location: Any = None,
    progress: bool = True,
) -> Any:
    """Do for URLs what :func:`read_as_data` does for files."""
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), None, progress)
    return read(path, map_location)


@patches('_init_model', BaseInferencer)
def run_no_stored_config(
    original: Callable, self: Any, cfg: Any, weights: Any, *args: Any, **kwargs: Any
) -> Any:
    """Keep inferencers from running the config stored in a checkpoint as code.

    Symptom: ``ActionRecogInferencer(None, weights=path)`` runs the text stored in
    ``message_hub.runtime_info.cfg`` or ``meta.cfg`` of the file.
    Versions: every known mmengine.
    Delete when MMEngine reads a stored config without running it.
    """
    if not cfg:
        raise ValueError(
            f'{type(self).__name__} got weights={str(weights)!r} and no config: the '
            f'one inside a checkpoint is code and is not run; give the config file'
        )
    return original(self, cfg, weights, *args, **kwargs)


@patches('find_latest_checkpoint', checkpoint, runners, runner, _flexible_runner)
def find_beside_pointer(original: Callable, path: str) -> Optional[str]:
    """Let ``last_checkpoint`` point to the file of that name in its own folder.

    Symptom: a moved work directory is not resumed, and a copied one resumes from the
    original's checkpoint, since the pointer holds an absolute path.
    Versions: every known mmengine.
    Delete when ``find_latest_checkpoint`` looks in its own folder first.
    """
    stored = original(path)
    name = Path(stored or '').name
    beside = os.path.join(path, name)
    return beside if name and os.path.exists(beside) else stored


@patches('before_train', CheckpointHook)
def keep_to_own_folder(original: Callable, hook: Any, runner: Runner) -> None:
    """Let a resumed run delete only files that it could have written itself.

    Symptom: the paths and numbers of ``best_ckpt`` and ``keep_ckpt_ids`` come from the
    resumed checkpoint, and the files that they name are deleted, wherever they are. For
    example, a run that resumes a copied checkpoint deletes the original run's best one.
    Versions: every known mmengine.
    Delete when ``CheckpointHook`` looks for these names in its own folder.
    """
    info = runner.message_hub.runtime_info
    if 'keep_ckpt_ids' in info:
        steps = info['keep_ckpt_ids']
        steps = steps if isinstance(steps, list) else []
        info['keep_ckpt_ids'] = [s for s in steps if type(s) is int and s >= 0]
    original(hook, runner)
    for key in [k for k in info if k == 'last_ckpt' or k.startswith('best_ckpt')]:
        name = own_name(hook, info[key])
        path = hook.file_backend.join_path(hook.out_dir, name or '')
        if name and hook.file_backend.exists(path):
            info[key] = path
            continue
        stored = str(info.pop(key))
        if key != 'last_ckpt':
            info.pop(key.replace('best_ckpt', 'best_score', 1), None)
            runner.logger.warning(
                f'the best checkpoint so far, {stored[:200]!r}, is not in '
                f'{hook.out_dir}; the search for the best score starts again'
            )
    if hook.save_best and len(hook.key_indicators) == 1:
        hook.best_ckpt_path = info.get('best_ckpt')
    elif hook.save_best:
        paths = {key: info.get(f'best_ckpt_{key}') for key in hook.key_indicators}
        hook.best_ckpt_path_dict.update(paths)


def own_name(hook: Any, path: Any) -> Optional[str]:
    """Return the file name in a path if this hook gives such names, else None."""
    name = re.split(r'[/\\]', path)[-1] if isinstance(path, str) else ''
    step = re.sub(r'\\\{.*?\\\}', r'\\d+', re.escape(hook.filename_tmpl))
    return name if re.fullmatch(rf'(best_.+_)?{step}', name) else None


@patches('__getstate__', HistoryBuffer)
def save_default_statistics(original: Callable, buffer: HistoryBuffer) -> dict:
    """Save the loss history without user-registered statistics.

    Symptom: after ``HistoryBuffer.register_statistics`` every checkpoint names that
    function and cannot be read as data. If the function is not global, the checkpoint
    cannot even be saved. Nothing is lost, since the class holds the statistics, not its
    instances.
    Versions: every known mmengine.
    Delete when ``HistoryBuffer`` leaves them out.
    """
    statistics = {name: getattr(HistoryBuffer, name) for name in STATISTICS}
    return {**vars(buffer), 'statistics_methods': statistics}
