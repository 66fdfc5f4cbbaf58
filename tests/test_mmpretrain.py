"""Towers as backbones of MMPretrain's image classifiers, by the config of the docs."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.runner import Runner
from pages import code_of
from PIL import Image
from test_tools import test, train
from tiny import TINY
from tiny_run import COLOURS

# By head: what to change in the text of the config, and its options.
MULTI_LABEL = [f'{split}_evaluator.type=MultiLabelMetric' for split in ('val', 'test')]
MULTI_LABEL += [f'{split}_evaluator.topk=1' for split in ('val', 'test')]
DEEP_PROMPTS = {
    "'STOPCLIPViT'": "'DeepPromptCLIPViT'",
    '        temporal_scale=0,\n': '',
}
HEADS = {
    'LinearClsHead': ({}, []),
    'VisionTransformerClsHead': (DEEP_PROMPTS, ['model.head.hidden_dim=16']),
    'MultiLabelLinearClsHead': (
        {},
        ["model.backbone.attention='frame'", *MULTI_LABEL],
    ),
}


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of the docs on the tiny tower, and noisy pictures of three colours."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(4):
                picture = np.clip(rng.normal(colour, 20, (40, 32, 3)), 0, 255)
                path = folder / split / name / f'{i}.png'
                Image.fromarray(picture.astype(np.uint8)).save(path)
    (text,) = code_of('mmpretrain.md')
    for old, new in (
        ("'ViT-B-32-quickgelu'", repr(TINY)),
        ("'openai'", 'None'),
        ('in_channels=512', 'in_channels=32'),
        ('image_size = 224', 'image_size = 32'),
        ('num_workers=8', 'num_workers=0'),
        ('batch_size=64', 'batch_size=6'),
        ('lr=1e-3', 'lr=1e-2'),
        ('data/mine', str(folder)),
    ):
        assert old in text
        text = text.replace(old, new)
    path = folder / 'images.py'
    path.write_text(text)
    return path


SLOW = [pytest.param(head, marks=pytest.mark.slow) for head in list(HEADS)[1:]]


@pytest.mark.parametrize('head', ['LinearClsHead', *SLOW])
def test_image_classifier_trains_and_predicts(
    head: str, config: Path, tmp_path: Path
) -> None:
    changes, options = HEADS[head]
    text = config.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    path = tmp_path / 'images.py'
    path.write_text(text)
    options = [f'model.head.type={head}', 'train_cfg.max_epochs=4', *options]
    arguments = [str(path), '--work-dir', str(tmp_path), '--cfg-options', *options]
    assert train.main(arguments) == 0
    arguments.insert(1, str(tmp_path / 'epoch_4.pth'))
    cfg = test.read_config(test.parse_args(arguments))
    metrics = Runner.from_cfg(cfg).test()
    assert min(metrics.values()) > 60, 'three plain colours, 33 % by chance'
