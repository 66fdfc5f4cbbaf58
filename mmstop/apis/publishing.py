"""Write a folder that shares a trained model: its weights, config and model card.

:mod:`mmstop.apis.published` describes the folder and reads it.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Optional, Union

import safetensors.torch
from mmengine.config import Config

from mmstop.classes import load_classes
from mmstop.engine.fitting import list_classes
from mmstop.engine.identity import (
    describe_arguments,
    digest_frozen,
    full_names,
    left_out,
)
from mmstop.errors import ConfigError, short
from mmstop.version import __version__

from .model_card import write_card
from .model_loading import load_model, test_pipeline
from .published import CARD, CONFIG, FORMAT, WEIGHTS, check_parts, encode, find

__all__ = ['publish']

TRAINING = {'blending', 'init_cfg', 'loss_cls', 'train_cfg'}  # for training alone


def publish(
    cfg: Config,
    checkpoint: Union[str, os.PathLike],
    out: Union[str, os.PathLike],
    weights: Optional[str] = None,
    licence: str = 'unknown',
    metrics: Optional[dict[str, float]] = None,
    options: Optional[dict[str, Any]] = None,
) -> list[Path]:
    """Write a folder that ``VideoCLIP.from_pretrained`` and the hub read.

    Args:
        cfg: config of the model.
        checkpoint: path of the trained weights.
        out: the folder, which is made if need be.
        weights: tag of the CLIP below, for a config that names a file instead.
        licence: an identifier of the hub, such as 'apache-2.0'.
        metrics: test results by name, for the model card.
        options: the ``--cfg-options`` in ``cfg``, for the model card.

    Returns:
        the files.

    Raises:
        ConfigError: the checkpoint does not fit; nothing was trained; the config needs
            code or files that readers do not have; or ``out`` has other files.
    """
    folder = Path(out)
    if others := sorted({p.name for p in folder.glob('*')} - {WEIGHTS, CONFIG, CARD}):
        raise ConfigError(
            f'{folder} has other files ({others[0]!r}), which would be shared as well; '
            f'name a new folder'
        )
    parts = _portable(cfg, weights)
    model = load_model(cfg, checkpoint, 'cpu')
    names = left_out(model)
    frozen = digest_frozen(model, names)
    for tower in frozen.values():
        if weights is not None and tower['weights'] != 'random':
            tower['weights'] = weights
    state = model.state_dict()
    trained = sorted(state.keys() - {*full_names(names)})
    if not trained:
        raise ConfigError(f'{cfg.filename}: nothing of its model was trained')
    data = safetensors.torch.save(
        {name: state[name].clone().contiguous() for name in trained}, {'format': 'pt'}
    )
    digest = hashlib.sha256(data).hexdigest()
    meta = dict(
        frozen=frozen, model=describe_arguments(cfg), classes=list_classes(model)
    )
    content = dict(
        format=FORMAT, mmstop=__version__, **encode(parts), meta=meta, sha256=digest
    )
    card = write_card(
        cfg, Path(checkpoint), content, licence, metrics or {}, options or {}
    )
    folder.mkdir(parents=True, exist_ok=True)
    # The config comes last: a folder that is not complete is refused.
    (folder / WEIGHTS).write_bytes(data)
    (folder / CARD).write_text(card, encoding='utf-8')
    (folder / CONFIG).write_text(json.dumps(content, indent=1), encoding='utf-8')
    return [folder / name for name in (WEIGHTS, CARD, CONFIG)]


def _portable(cfg: Config, weights: Optional[str]) -> dict[str, Any]:
    """Copy what readers need of a config, with nothing that only this machine has."""
    parts = {
        'model': _plain(cfg.model.to_dict(), 'model'),
        'test_pipeline': _plain(test_pipeline(cfg), 'test_pipeline'),
    }
    for tower in find(parts['model'], 'weights'):
        tower['weights'] = tower['weights'] and (weights or tower['weights'])
    for head in find(parts['model'], 'classes'):
        head['classes'] = load_classes(head['classes'])
    check_parts(parts, cfg.filename)
    return parts


def _plain(node: Any, path: str) -> Any:
    """Copy a part of a config as JSON can hold it, without what only trains."""
    if isinstance(node, dict):
        return {
            key: _plain(value, f'{path}.{key}')
            for key, value in node.items()
            if key not in TRAINING
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_plain(x, f'{path}.{i}') for i, x in enumerate(node))
    if isinstance(node, type):  # in a lazy-import config
        return node.__name__
    if node is None or isinstance(node, (str, bool, int, float)):
        return node
    raise ConfigError(f'{path} is {short(node)}, which JSON cannot hold')
