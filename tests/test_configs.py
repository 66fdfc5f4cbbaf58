"""Every config builds with the tiny architecture, and says what it should."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import TINY

from mmstop.datasets import load_classes
from mmstop.registry import MODELS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def read(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds_and_runs(path):
    config = Config.fromfile(path)
    backbone, text = config.model.backbone, config.model.cls_head.text
    for tower in (backbone.get('clip', backbone), text):
        tower.update(arch=TINY, weights=None)
    config.model.cls_head.template = '{}'  # the tiny text tower has room for little
    if 'ssv2' in path.stem:  # and the longest of these sentences need more
        config.model.cls_head.classes = ['holding something'] + [
            f'moving {number}' for number in range(173)
        ]
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    T = config.num_frames
    scores = model.cls_head(model.backbone(torch.randn(1, 3, T, 32, 32)))
    assert scores.shape == (1, len(load_classes(config.classes)))
    trains = any(p.requires_grad for p in model.parameters())
    assert trains == (config.get('train_dataloader') is not None)
    assert trains != path.stem.startswith('clip_')


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
    import sys

    sys.path.insert(0, str(ROOT / 'tools' / 'data'))
    import moving_shapes

    assert load_classes('moving_shapes') == list(moving_shapes.CLASSES)
