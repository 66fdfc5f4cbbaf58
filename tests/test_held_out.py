"""Validation videos held out of the training list, and what the log says of them."""

import hashlib
import json
import logging
import re
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_run import tiny_config, write_tiny_retrieval

from mmstop.config import load_config
from mmstop.datasets import (
    CheckedRawframeDataset,
    CheckedVideoDataset,
    VideoCaptionDataset,
)
from mmstop.engine import TrainableCheckpointHook
from mmstop.engine.saving import SafeCheckpointHook
from mmstop.errors import ConfigError

NAMES = [f'video{number}.mp4' for number in range(40)]
# Those with the lowest SHA-256, which `sha256sum` gives as well.
HELD_OUT = {'video2.mp4', 'video15.mp4', 'video23.mp4', 'video39.mp4'}


def write_list(kind, folder, names):
    if kind is VideoCaptionDataset:
        path = folder / 'train.json'
        captions = {name: [f'{name} {i}' for i in range(3)] for name in names}
        path.write_text(json.dumps(captions))
        return path
    path = folder / 'train.txt'
    middle = ' 8' if kind is CheckedRawframeDataset else ''
    path.write_text('\n'.join(f'{name}{middle} 0' for name in names))
    return path


def build(kind, folder, names, test_mode, share=0.1):
    folder.mkdir(exist_ok=True)
    prefix = 'img' if kind is CheckedRawframeDataset else 'video'
    return kind(
        data_root=str(folder),
        data_prefix={prefix: 'videos'},
        ann_file=write_list(kind, folder, names).name,
        pipeline=[],
        serialize_data=False,  # that takes longer than all else here
        test_mode=test_mode,
        val_from_train=share,
    )


def names_in(dataset):
    return [dataset.get_data_info(i)['name'] for i in range(len(dataset))]


@pytest.mark.parametrize(
    'kind', [CheckedVideoDataset, CheckedRawframeDataset, VideoCaptionDataset]
)
def test_training_and_validation_share_no_video(kind, tmp_path):
    train = names_in(build(kind, tmp_path / 'a', NAMES, test_mode=False))
    val = names_in(build(kind, tmp_path / 'a', NAMES, test_mode=True))
    assert len(val) == 4 and {*val} == HELD_OUT
    assert {*train} == {*NAMES} - HELD_OUT
    copies = 3 if kind is VideoCaptionDataset else 1  # all captions of a video
    assert all(train.count(name) == copies for name in train)
    other = build(kind, tmp_path / 'b', NAMES[::-1], test_mode=True)
    assert names_in(other) == val[::-1]
    assert len(build(kind, tmp_path / 'a', NAMES, True, share=0)) == 40


def test_they_are_those_with_the_lowest_digests():
    def digest(name):
        return hashlib.sha256(name.encode()).hexdigest()

    assert HELD_OUT == {*sorted(NAMES, key=digest)[:4]}


@pytest.mark.parametrize(
    'share, message',
    [
        (1.0, r'val_from_train=1.0, expected a share .* of at least 0 and less than 1'),
        (-0.1, r'val_from_train=-0.1, expected'),
        (0.1, r'val_from_train=0.1 would hold out 0 of the 3 videos of .*train.txt'),
        (0.9, r'val_from_train=0.9 would hold out 3 of the 3 videos .* one each'),
    ],
)
def test_a_share_that_leaves_no_video_on_one_side_is_refused(share, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build(CheckedVideoDataset, tmp_path, NAMES[:3], False, share)


# --- Configs ------------------------------------------------------------------------


def test_one_option_changes_training_and_validation(tmp_path):
    path = tmp_path / 'tiny.py'
    Config(tiny_config(tmp_path)).dump(path)
    plain = load_config(str(path))
    options = {
        'val_from_train': 0.25,
        'train_dataloader.dataset.ann_file': 'own.txt',
        'train_dataloader.dataset.on_error': 'skip',
    }
    cfg = load_config(str(path), options)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert (train.ann_file, train.val_from_train) == ('own.txt', 0.25)
    assert (val.ann_file, val.val_from_train) == ('own.txt', 0.25)
    assert val.test_mode and 'on_error' not in val
    assert val.pipeline == plain.val_dataloader.dataset.pipeline
    assert cfg.val_dataloader.sampler == plain.val_dataloader.sampler
    assert cfg.test_dataloader == plain.test_dataloader
    cfg.dump(tmp_path / 'dumped.py')  # as a run does, which may be resumed from it
    assert load_config(str(tmp_path / 'dumped.py')).to_dict() == cfg.to_dict()
    own = tmp_path / 'own.py'
    own.write_text('_base_ = "tiny.py"\nval_from_train = 0.25')
    stated = load_config(str(own)).val_dataloader.dataset
    assert (stated.ann_file, stated.val_from_train) == ('train.txt', 0.25)


@pytest.mark.parametrize(
    'options, message',
    [
        ({}, 'val_from_train=0, expected .* between 0 and 1, such as 0.1'),
        (
            {'train_dataloader.dataset.type': 'VideoDataset', 'val_from_train': 0.1},
            'val_from_train=0.1: the data sets of train_dataloader are VideoDataset, '
            'expected exactly one CheckedVideoDataset',
        ),
        (
            {'val_dataloader': None, 'val_from_train': 0.1},
            'the data sets of val_dataloader are none, expected exactly one',
        ),
    ],
)
def test_a_config_that_cannot_hold_out_is_refused(options, message, tmp_path):
    path = tmp_path / 'tiny.py'
    Config(tiny_config(tmp_path)).dump(path)
    with pytest.raises(ConfigError, match=message):
        load_config(str(path), {'val_from_train': 0, **options})


# --- The log ------------------------------------------------------------------------


@pytest.mark.parametrize(
    'val, test, line',
    [
        (dict(val_from_train=0.1), 'train.txt', 'chosen on 4 videos held out of the'),
        ({}, 'train.txt', r'chosen on the test split, \S+/train.txt, so that its test'),
        ({}, 'test.txt', r'chosen on the validation list \S+/train.txt$'),
        (None, 'test.txt', 'none, since this run does not validate'),
    ],
)
def test_log_names_the_list_that_the_best_checkpoint_is_chosen_on(
    val, test, line, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(SafeCheckpointHook, 'before_train', lambda *_: None)
    dataset = dict(type='CheckedVideoDataset', data_root=str(tmp_path), ann_file=test)
    val_loop = None
    if val is not None:
        share = val.get('val_from_train', 0)
        built = build(CheckedVideoDataset, tmp_path, NAMES, True, share)
        val_loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=built))
    runner = SimpleNamespace(
        val_loop=val_loop,
        cfg=Config(dict(test_dataloader=dict(dataset=dataset))),
        logger=logging.getLogger('held_out'),
    )
    hook = TrainableCheckpointHook(save_best='acc/top1', rule='greater')
    with caplog.at_level(logging.INFO, 'held_out'):
        hook.before_train(runner)
    (message,) = caplog.messages
    assert message.startswith('best checkpoint: ')
    assert re.search(line, message)


@pytest.mark.slow
def test_a_run_validates_on_what_it_holds_out(tmp_path):
    config = write_tiny_retrieval(tmp_path)
    options = {'val_from_train': 0.34, 'train_cfg.max_epochs': 1}
    Runner.from_cfg(load_config(str(config), options)).train()
    (log,) = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text()
    assert 'chosen on 2 videos held out of the training list' in text
    (scores,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scores.read_text().splitlines()]
    assert lines[-1]['retrieval/t2v/MdR'] <= 2  # of two videos
    assert lines[-2]['step'] == 4  # 4 videos, 2 captions each, 2 a batch
