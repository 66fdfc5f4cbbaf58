"""Options at random: right ones build, mistyped ones are named, none is a traceback."""

import contextlib
import string
import tempfile
from pathlib import Path

import pytest
import torch
from fuzz import draws, fuzz, seeds
from hypothesis import assume, example
from hypothesis.strategies import (
    booleans,
    composite,
    fixed_dictionaries,
    floats,
    integers,
    lists,
    one_of,
    sampled_from,
    text,
)
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny_run import tiny_config

from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.errors import ConfigError
from mmstop.registry import MODELS

FOLDER = tempfile.TemporaryDirectory()
CONFIG = Path(FOLDER.name) / 'tiny.py'
Config(tiny_config(CONFIG.parent)).dump(CONFIG)


def keys_below(node, path=''):
    """List the keys of all dicts whose keys are known: 'a.b.0.c'."""
    found = []
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, child in children:
        if isinstance(node, dict):
            found.append(f'{path}{key}')
        if isinstance(child, (dict, list)) and not str(key).endswith(('_cfg', 'grad')):
            found += keys_below(child, f'{path}{key}.')
    return found


KEYS = keys_below(tiny_config(CONFIG.parent))
TOP = {key.partition('.')[0] for key in KEYS} - {'custom_imports', 'default_scope'}
CHECKED = [
    key
    for key in KEYS
    if key.partition('.')[0] in TOP and len(key.rpartition('.')[2]) >= 5
]

options = fixed_dictionaries(
    {},
    optional={
        'model.backbone.num_spatial': integers(0, 16),
        'model.backbone.temporal_scale': integers(0, 16),
        'model.backbone.alpha': floats(0, 1),
        'model.backbone.beta': floats(0, 9),
        'model.backbone.attention': sampled_from(['joint', 'frame']),
        'model.backbone.selection': sampled_from(['straight_through', 'hard']),
        'model.backbone.normalize_dynamics': booleans(),
        'model.backbone.clip.merge': integers(0, 8),
        'model.backbone.clip.checkpoint': booleans(),
        'model.backbone.clip.trainable': sampled_from(['bias$', 'ln_post']),
        'model.cls_head.template': sampled_from(['{}', 'a {}', 'the colour {}']),
        'model.cls_head.label_smooth_eps': floats(0, 0.5),
        'model.cls_head.text.trainable': sampled_from(['ln_final', 'logit_scale']),
        'train_dataloader.batch_size': integers(1, 9),
        'train_dataloader.dataset.pipeline.1.clip_len': integers(1, 9),
        'optim_wrapper.optimizer.lr': floats(0, 1),
        'train_cfg.max_epochs': integers(1, 9),
    },
)


@fuzz(40, options=options, T=integers(1, 4), seed=seeds)
def test_valid_options_make_a_model_that_runs(options, T, seed):
    cfg = load_config(str(CONFIG), dict(options))
    check_config(cfg, [])
    for option, value in options.items():
        node = cfg
        for key in option.split('.'):
            node = node[int(key)] if key.isdecimal() else node[key]
        assert node == value
    with DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(cfg.model).train()
    scores = model.cls_head(model.backbone(draws(seed)(2, 3, T, 32, 32)))
    assert scores.shape == (2, 3) and scores.isfinite().all()
    learning = [p for p in model.parameters() if p.requires_grad]
    if learning:
        gradients = torch.autograd.grad(scores.sum(), learning)
        assert all(gradient.isfinite().all() for gradient in gradients)


@composite
def slips(draw, word):
    """Mistype a word: leave out, repeat, exchange or add a letter."""
    i = draw(integers(0, len(word) - 2))
    letter = draw(sampled_from(string.ascii_lowercase))
    return draw(sampled_from([
        word[:i] + word[i + 1 :],
        word[:i] + word[i] + word[i:],
        word[:i] + word[i + 1] + word[i] + word[i + 2 :],
        word[:i] + letter + word[i:],
    ]))  # fmt: skip


@composite
def mistyped(draw):
    """Draw a key of the config, and the same with its last part mistyped."""
    key = draw(sampled_from(CHECKED))
    place, dot, name = key.rpartition('.')
    return key, place + dot + draw(slips(name))


@fuzz(300, few=10, keys=mistyped())
def test_a_mistyped_key_is_told_the_right_one(keys):
    right, wrong = keys
    assume(wrong not in KEYS)
    name = right.rpartition('.')[2]
    with pytest.raises(ConfigError, match=f'{wrong}.*did you mean.*{name}'):
        load_config(str(CONFIG), {wrong: 1})


parts = one_of(
    sampled_from(sorted({part for key in KEYS for part in key.split('.')})),
    sampled_from(['0', '1', '-1', '²', '', '_delete_', 'type']),
    text(max_size=4),
)
keys = lists(parts, min_size=1, max_size=5).map('.'.join)


@fuzz(400, few=10, key=keys, known=sampled_from(['', *CHECKED]))
@example(key='²', known='param_scheduler')
@example(key='type', known='model.cls_head.classes')
@example(key='0', known='model.cls_head.classes')
@example(key='type', known='model.backbone.clip.weights')
def test_any_key_is_taken_or_refused(key, known):
    option = f'{known}.{key}' if known else key
    with contextlib.suppress(ConfigError):
        load_config(str(CONFIG), {option: 1})
