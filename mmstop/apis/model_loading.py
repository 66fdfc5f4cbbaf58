"""Build a model from a config and a checkpoint, ready for your own videos."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

import open_clip
import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from torch import nn

from mmstop.architectures import image_size
from mmstop.engine.fitting import check_fit, refuse_bad_numbers
from mmstop.engine.hooks import refuse_untrained
from mmstop.errors import ConfigError
from mmstop.towers import Tower

from .video_reading import EXACT, use_decoder

__all__ = [
    'build_model',
    'clip_config',
    'config_name',
    'fill_in',
    'find_device',
    'find_text_tower',
    'fingerprint',
    'load_model',
    'reading_pipelines',
    'test_pipeline',
    'text_tower',
]


def config_name(cfg: Config) -> str:
    """Return the name of a config for messages."""
    return cfg.filename or 'a config made in Python'


def find_device(name: str) -> torch.device:
    """Return the device with a name, which may be 'auto'.

    Raises:
        ValueError: there is no such device.
    """
    name = get_device() if name == 'auto' else name
    try:
        device = torch.empty(0, device=name)
        device.cpu()  # fails for 'meta'
        return device.device
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split('\n')[0]
        raise ValueError(f'device={name!r} cannot be used here: {reason}') from None


def test_pipeline(cfg: Config) -> list[dict]:
    """Return the steps of a config's test pipeline.

    Raises:
        ValueError: the config has none.
    """
    loader: Any = cfg.get('test_dataloader') or {}
    dataset = loader.get('dataset') or {}
    if 'pipeline' not in dataset:
        raise ValueError(
            f'{config_name(cfg)} has no test_dataloader.dataset.pipeline, which '
            f'defines how a video is read'
        )
    steps = dataset['pipeline']
    if not isinstance(steps, (list, tuple)):
        raise ValueError(
            f'{config_name(cfg)}: test_dataloader.dataset.pipeline={steps!r}, expected '
            f'a list of steps'
        )
    return list(steps)


def reading_pipelines(
    cfg: Config, decoder: Optional[str] = None
) -> tuple[Compose, Compose]:
    """Build the test pipelines, one for files and one for frames in memory.

    Args:
        decoder: the ``name`` of :func:`use_decoder`.

    Raises:
        ValueError: the config has no pipeline that reads videos, or there is no such
            decoder.
    """
    steps = test_pipeline(cfg)
    with _building(cfg, 'the test pipeline'):
        files = Compose(use_decoder(steps, decoder))
        return files, Compose(use_decoder(steps, 'array'))


def find_text_tower(model: Any) -> Any:
    """Return the text tower of a retriever or of a recognizer's head, if any."""
    text = getattr(getattr(model, 'cls_head', model), 'text', None)
    return text if isinstance(text, Tower) else None


def text_tower(model: nn.Module) -> Any:
    """Return the text tower of a model.

    Raises:
        ValueError: the model has none.
    """
    if (text := find_text_tower(model)) is not None:
        return text
    head = getattr(model, 'cls_head', None)
    raise ValueError(
        f'{type(model).__name__} with {type(head).__name__} has no text tower; use a '
        f'CLIPRetriever or a recognizer with a CLIPTextHead'
    )


def build_model(cfg: Config) -> Any:
    """Build a config's model, before the checkpoint is loaded."""
    with _building(cfg, 'the model'):
        return MODELS.build(cfg.model)


def load_model(
    cfg: Config, checkpoint: Union[str, os.PathLike, None], device: str = 'auto'
) -> Any:
    """Build a config's model and load its checkpoint, ready for evaluation.

    Args:
        checkpoint: as for :func:`fill_in`.
        device: as for :func:`find_device`.
    """
    where = find_device(device)
    model = build_model(cfg)
    fill_in(model, checkpoint, cfg)
    return model.to(where).eval()


@contextmanager
def _building(cfg: Config, what: str) -> Iterator[None]:
    """Turn errors while parts of a config are built into a ``ConfigError``."""
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmaction')):
            yield
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{config_name(cfg)}: {what} cannot be built: {type(error).__name__}: '
            f'{error}'
        ) from error


def fill_in(
    model: nn.Module, checkpoint: Union[str, os.PathLike, None], cfg: Config
) -> None:
    """Load a checkpoint, which must hold exactly the weights that the model needs.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ConfigError: the checkpoint does not fit, or none is given but one is needed.
    """
    if checkpoint is None:
        refuse_untrained(model, config_name(cfg))
        return
    path = os.fspath(checkpoint)
    loaded = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    name = f'checkpoint {path}'
    refuse_bad_numbers(model, loaded, name)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    other = bool(hook.get('other_merging'))
    if hook.get('strict', True):
        if warning := check_fit(model, loaded, cfg, name, other_merging=other):
            warnings.warn(warning, stacklevel=2)
    state = loaded.get('state_dict', loaded)
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    model.load_state_dict(state, strict=False)


def clip_config(arch: str, weights: Optional[str], num_frames: int) -> Config:
    """Return the config of CLIP as it is, without training."""
    size = min(image_size(arch))
    tower = dict(arch=arch, weights=weights)
    pipeline = [
        dict(type='CheckedDecordInit', short_side=size, interpolation='bicubic'),
        dict(type='UniformSample', clip_len=num_frames, test_mode=True),
        dict(type='DecordDecode'),
        dict(type='Resize', scale=(-1, size), interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=size),
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs'),
    ]
    pixels = dict(
        type='ActionDataPreprocessor',
        mean=[255 * value for value in open_clip.OPENAI_DATASET_MEAN],
        std=[255 * value for value in open_clip.OPENAI_DATASET_STD],
        format_shape='NCTHW',
    )
    model = dict(
        type='CLIPRetriever',
        backbone=dict(type='CLIPViT', **tower),
        text=dict(type='CLIPText', **tower),
        data_preprocessor=pixels,
    )
    dataset = dict(type='VideoDataset', pipeline=pipeline)
    loader = dict(dataset=dataset)
    return Config(dict(default_scope='mmaction', model=model, test_dataloader=loader))


def fingerprint(cfg: Config, model: nn.Module, decoder: str) -> str:
    """Hash everything that a model's embeddings depend on, as 64 hexadecimal digits.

    This covers all weights, the configs of the towers and the preprocessor, the test
    pipeline and the decoder, but not the locations of files.
    """
    towers = [cfg.model.backbone, cfg.model.get('text') or cfg.model.cls_head.text]
    kept = 'array' if decoder == EXACT else decoder  # both read the same exact frames
    steps = use_decoder(test_pipeline(cfg), kept)
    parts = [*towers, cfg.model.data_preprocessor, steps, decoder]
    digest = hashlib.sha256(json.dumps(_portable(parts), default=str).encode())
    for name, value in model.state_dict().items():
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _portable(node: Any) -> Any:
    """Remove file locations from a config; the weights are hashed separately."""
    if isinstance(node, dict):
        return {
            key: (
                Path(value).name.removesuffix('.json')
                if key == 'arch'
                else _portable(value)
            )
            for key, value in sorted(node.items())
            if key != 'weights'
        }
    if isinstance(node, (list, tuple)):
        return [_portable(value) for value in node]
    return node
