"""Every config builds with the tiny architecture, and says what it should."""

import re
from pathlib import Path

import moving_shapes
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import TINY

from mmstop.datasets import load_classes
from mmstop.registry import MODELS, TRANSFORMS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
IS_RETRIEVAL = re.compile(r'_(msrvtt|vatex|activitynet|didemo)$|_retrieval$')
RETRIEVAL = [path for path in CONFIGS if IS_RETRIEVAL.search(path.stem)]
RECOGNITION = [path for path in CONFIGS if path not in RETRIEVAL]


def read(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def build(config, *towers):
    for tower in towers:
        tower.update(arch=TINY, weights=None)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model)


@pytest.mark.parametrize('path', RECOGNITION, ids=lambda path: path.stem)
def test_recognition_builds_and_runs(path):
    config = Config.fromfile(path)
    backbone, text = config.model.backbone, config.model.cls_head.text
    config.model.cls_head.template = '{}'  # the tiny text tower has room for little
    if 'ssv2' in path.stem:  # and the longest of these sentences need more
        config.model.cls_head.classes = ['holding something'] + [
            f'moving {number}' for number in range(173)
        ]
    model = build(config, backbone.get('clip', backbone), text)
    T = config.num_frames
    scores = model.cls_head(model.backbone(torch.randn(1, 3, T, 32, 32)))
    assert scores.shape == (1, len(load_classes(config.classes)))
    check_what_trains(model, config, path.stem)


@pytest.mark.parametrize('path', RETRIEVAL, ids=lambda path: path.stem)
def test_retrieval_builds_and_runs(path):
    config = Config.fromfile(path)
    backbone = config.model.backbone
    model = build(config, backbone.get('clip', backbone), config.model.text)
    T = config.num_frames
    inputs = {
        'imgs': torch.randn(2, 1, 3, T, 32, 32),
        'text': model.text.tokenize(['a dog', 'two cats']),
    }
    with torch.no_grad():
        loss = model(inputs, mode='loss')['loss_contrastive']
    assert loss.isfinite()
    check_what_trains(model, config, path.stem)
    for split in ('train', 'val', 'test'):
        if (loader := config[f'{split}_dataloader']) is None:
            continue
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps['UniformSample'].clip_len == T
        assert steps['UniformSample'].get('test_mode', False) == (split != 'train')
        assert loader.dataset.get('test_mode', False) == (split != 'train')
    assert config.default_hooks.checkpoint.save_best == 'retrieval/t2v/R1'
    assert config.default_hooks.checkpoint.rule == 'greater'


def check_what_trains(model, config, name):
    trains = any(p.requires_grad for p in model.parameters())
    assert trains == (config.get('train_dataloader') is not None)
    assert trains != name.startswith('clip_')


@pytest.mark.parametrize(
    'name, frames, tokens',
    [
        ('msrvtt', 12, 32),
        ('vatex', 12, 32),
        ('activitynet', 64, 64),
        ('didemo', 64, 64),
    ],
)
def test_paper_s_frames_and_words(name, frames, tokens):
    for split in ('train', 'val', 'test'):
        pipeline = read(f'stop_{name}')[f'{split}_dataloader'].dataset.pipeline
        steps = {step.type: step for step in pipeline}
        assert steps['UniformSample'].clip_len == frames
        assert steps['CaptionTokenize'].max_tokens == tokens


@pytest.mark.parametrize(
    'name, epochs, warm_up',
    [
        ('msrvtt', 5, 0.5),
        ('vatex', 5, 0.5),
        ('activitynet', 10, 1),
        ('didemo', 10, 1),
        ('ssv2', 30, 3),
        ('ucf101', 30, 3),
        ('hmdb51', 30, 3),
    ],
)
def test_recipe_of_the_authors(name, epochs, warm_up):
    """The published values; ours are the epochs of recognition alone."""
    config = read(f'stop_{name}').to_dict()
    assert config['optim_wrapper']['optimizer'] == dict(
        type='AdamW', lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6
    )
    rising, falling = config['param_scheduler']
    assert rising['type'] == 'LinearLR' and falling['type'] == 'CosineAnnealingLR'
    assert rising['end'] == falling['begin'] == warm_up == epochs / 10
    assert config['train_cfg']['max_epochs'] == epochs
    assert 8 * config['train_dataloader']['batch_size'] == 128  # on eight GPUs
    assert config['auto_scale_lr']['base_batch_size'] == 128
    assert 'depth' not in config['model']['backbone']  # prompts at every block


@pytest.mark.parametrize('name', ['moving_shapes', 'moving_shapes_retrieval'])
def test_recipe_with_which_readme_s_figures_were_measured(name):
    config = read(f'stop_{name}').to_dict()
    optimizer = dict(type='AdamW', lr=3e-3, weight_decay=0.05)
    assert config['optim_wrapper']['optimizer'] == optimizer
    assert config['param_scheduler'][0]['end'] == 0.25
    assert config['model']['backbone']['depth'] == 1


@pytest.mark.parametrize('path', RETRIEVAL, ids=lambda path: path.stem)
def test_methods_of_a_data_set_differ_in_the_model_only(path):
    method, _, data = path.stem.partition('_')
    config, stop = read(path.stem).to_dict(), read(f'stop_{data}').to_dict()
    if method == 'clip4clip':
        assert config.pop('trainable') and config['optim_wrapper']['optimizer']
        del config['optim_wrapper'], stop['optim_wrapper']
    if method == 'clip':
        for key in (
            'train_dataloader',
            'train_cfg',
            'optim_wrapper',
            'param_scheduler',
        ):
            config.pop(key, None), stop.pop(key)
        del stop['auto_scale_lr']
    del config['model'], stop['model']
    assert config == stop


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_stays_short(path):
    assert len(path.read_text().splitlines()) <= 20


def test_left_is_right_in_a_mirror():
    names = load_classes('ssv2')
    pipeline = read('stop_ssv2').train_dataloader.dataset.pipeline
    (flip,) = [step for step in pipeline if step.type == 'Flip']
    swap = {'left': 'right', 'right': 'left'}
    mirrored = [' '.join(swap.get(w, w) for w in name.split()) for name in names]
    assert flip.flip_label_map == {
        label: names.index(mirror)
        for label, mirror in enumerate(mirrored)
        if mirror != names[label] and mirror in names
    }


def test_moving_shapes_in_a_mirror():
    sideways, upside_down = [
        step.flip_label_map
        for step in read('stop_moving_shapes').train_dataloader.dataset.pipeline
        if step.type == 'Flip'
    ]
    names = load_classes('moving_shapes')
    for swap, labels in (
        ({'left': 'right', 'right': 'left'}, sideways),
        ({'upper': 'lower', 'lower': 'upper', 'up': 'down', 'down': 'up'}, upside_down),
    ):
        mirrored = [' '.join(swap.get(w, w) for w in name.split()) for name in names]
        assert [labels.get(i, i) for i in range(9)] == [
            names.index(m) for m in mirrored
        ]


def test_splits_differ_in_their_lists_only():
    for data in ('ucf101', 'hmdb51'):
        first, first_lists = take_lists(read(f'stop_{data}').to_dict())
        for split in (2, 3):
            other, lists = take_lists(read(f'stop_{data}_split{split}').to_dict())
            assert other == first
            assert lists == [
                x.replace('split_1', f'split_{split}') for x in first_lists
            ]


def take_lists(config):
    """Part a config from its three annotation files."""
    stages = [config[f'{stage}_dataloader'] for stage in ('train', 'val', 'test')]
    return config, [stage['dataset'].pop('ann_file') for stage in stages]


def test_moving_shapes_classes_are_the_generator_s():
    assert load_classes('moving_shapes') == list(moving_shapes.CLASSES)


def test_words_are_mirrored_as_labels_are():
    """What a flip does to the captions of Moving Shapes and what it does to labels."""
    recognition = read('stop_moving_shapes').train_dataloader.dataset.pipeline
    flips = [step.flip_label_map for step in recognition if step.type == 'Flip']
    retrieval = read('stop_moving_shapes_retrieval').train_dataloader.dataset.pipeline
    mirrors = [step.words for step in retrieval if step.type == 'MirrorCaption']
    names = load_classes('moving_shapes')
    for labels, words in zip(flips, mirrors):
        mirror = TRANSFORMS.build(dict(type='MirrorCaption', words=words))
        found = mirror({'text': list(names), 'flip': True})['text']
        assert found == [names[labels.get(i, i)] for i in range(9)]
        assert mirror({'text': 'left', 'flip': False})['text'] == 'left'
    assert len(flips) == len(mirrors) == 2
