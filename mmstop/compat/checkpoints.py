"""Patches for MMEngine's checkpoints, so that it treats their content as data only."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from string import Formatter
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
from .wrapping import wrap

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
    wrap(checkpoint, 'load_url', _load_url)


def _load_url(
    original: Callable,
    url: str,
    model_dir: Optional[str] = None,
    map_location: Any = None,
    progress: bool = True,
) -> Any:
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), None, progress)
    return read(path, map_location)


def run_no_stored_config() -> None:
    """Keep inferencers from running the config stored in a checkpoint as code.

    Symptom: ``ActionRecogInferencer(None, weights=path)`` runs the text stored in
    ``message_hub.runtime_info.cfg`` or ``meta.cfg`` of the file.
    Versions: every known mmengine.
    Delete when MMEngine reads a stored config without running it.
    """
    wrap(BaseInferencer, '_init_model', _init_model)


def _init_model(
    original: Callable, self: Any, cfg: Any, weights: Any, *args: Any, **kwargs: Any
) -> Any:
    if not cfg:
        raise ValueError(
            f'{type(self).__name__} got weights={str(weights)!r} and no config: the '
            f'one inside a checkpoint is code and is not run; give the config file'
        )
    return original(self, cfg, weights, *args, **kwargs)


def find_beside_pointer() -> None:
    """Let ``last_checkpoint`` point to the file of that name in its own folder.

    Symptom: a moved work directory is not resumed, and a copied one resumes from the
    original's checkpoint, since the pointer holds an absolute path.
    Versions: every known mmengine.
    Delete when ``find_latest_checkpoint`` looks in its own folder first.
    """
    for module in (checkpoint, runners, runner, _flexible_runner):
        wrap(module, 'find_latest_checkpoint', _find_latest_checkpoint)


def _find_latest_checkpoint(original: Callable, path: str) -> Optional[str]:
    stored = original(path)
    name = Path(stored or '').name
    beside = os.path.join(path, name)
    return beside if name and os.path.exists(beside) else stored


def keep_to_own_folder() -> None:
    """Let a resumed run delete only files that it could have written itself.

    Symptom: the paths and numbers of ``best_ckpt`` and ``keep_ckpt_ids`` come from the
    resumed checkpoint, and the files that they name are deleted, wherever they are. For
    example, a run that resumes a copied checkpoint deletes the original run's best one.
    Versions: every known mmengine.
    Delete when ``CheckpointHook`` looks for these names in its own folder.
    """
    wrap(CheckpointHook, 'before_train', _before_train)


def _before_train(original: Callable, hook: Any, runner: Runner) -> None:
    info = runner.message_hub.runtime_info
    steps = info.get('keep_ckpt_ids', [])
    steps = steps if isinstance(steps, list) else []
    if 'keep_ckpt_ids' in info:
        info['keep_ckpt_ids'] = [s for s in steps if type(s) is int and s >= 0]
    original(hook, runner)
    if name := own_name(hook, info.get('last_ckpt')):
        info['last_ckpt'] = hook.file_backend.join_path(hook.out_dir, name)
    else:
        info.pop('last_ckpt', None)
    if hook.save_best is None:
        return
    many = len(hook.key_indicators) > 1
    for key in hook.key_indicators:
        suffix = f'_{key}' if many else ''
        path = _find_best(hook, runner, suffix)
        if many:
            hook.best_ckpt_path_dict[key] = path
        else:
            hook.best_ckpt_path = path


def _find_best(hook: Any, runner: Runner, suffix: str) -> Optional[str]:
    """Find the best checkpoint so far; forget the score if its file is missing."""
    info = runner.message_hub.runtime_info
    stored = info.get(f'best_ckpt{suffix}')
    name = own_name(hook, stored)
    path = hook.file_backend.join_path(hook.out_dir, name or '')
    if name and hook.file_backend.exists(path):
        info[f'best_ckpt{suffix}'] = path
        return path
    if stored is not None:
        runner.logger.warning(
            f'the best checkpoint so far, {str(stored)[:200]!r}, is not in '
            f'{hook.out_dir}; the search for the best score starts again'
        )
    for key in (f'best_ckpt{suffix}', f'best_score{suffix}'):
        info.pop(key, None)
    return None


def own_name(hook: Any, path: Any) -> Optional[str]:
    """Return the file name in a path if this hook gives such names, else None."""
    name = re.split(r'[/\\]', path)[-1] if isinstance(path, str) else ''
    parts = Formatter().parse(hook.filename_tmpl)
    step = ''.join(
        re.escape(text) + ('' if field is None else r'\d+') for text, field, *_ in parts
    )
    keys = '|'.join(
        '.+' if key == 'auto' else re.escape(key.replace('/', '_'))
        for key in (hook.key_indicators if hook.save_best else [])
    )
    best = f'(best_({keys})_)?' if keys else ''
    return name if re.fullmatch(best + step, name) else None


def save_default_statistics() -> None:
    """Save the loss history without user-registered statistics.

    Symptom: after ``HistoryBuffer.register_statistics`` every checkpoint names that
    function and cannot be read as data. If the function is not global, the checkpoint
    cannot even be saved. Nothing is lost, since the class holds the statistics, not its
    instances.
    Versions: every known mmengine.
    Delete when ``HistoryBuffer`` leaves them out.
    """
    wrap(HistoryBuffer, '__getstate__', _get_state)


def _get_state(original: Callable, buffer: HistoryBuffer) -> dict:
    statistics = {name: getattr(HistoryBuffer, name) for name in STATISTICS}
    return {**vars(buffer), 'statistics_methods': statistics}
