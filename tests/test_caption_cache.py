"""Captions encoded once: the same losses, fewer forwards, the same when resumed."""

import pytest
import torch
from distributed_step import TASKS, batch, step
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import TEXT
from tiny_run import tiny_config, write_tiny_retrieval

from mmstop.registry import HOOKS, MODELS

HOOK = dict(type='CaptionCacheHook')


@pytest.fixture
def encoded(monkeypatch):
    """The number of captions in each forward pass of the text tower."""
    sizes, forward = [], MODELS.get('CLIPText').forward
    monkeypatch.setattr(
        MODELS.get('CLIPText'),
        'forward',
        lambda self, ids: sizes.append(len(ids)) or forward(self, ids),
    )
    return sizes


def tokens(*captions):
    return MODELS.build(TEXT).tokenize(captions)


def build(trainable=None):
    torch.manual_seed(0)
    text = dict(TEXT, trainable=trainable)
    return MODELS.build(dict(TASKS['retrieval'], text=text))


def step_of(model):
    return step(model, 'retrieval', torch.float32, 5)


# --- The model ----------------------------------------------------------------------


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_loss_and_gradients_are_those_without(encoded):
    """Two of the eight captions were not foreseen; only they are encoded."""
    expected = step_of(build())
    model = build()
    ids = batch('retrieval')[0]['text']
    model.keep_captions(torch.cat([tokens('none of them', *['a'] * 7), ids[2:]]))
    encoded.clear()
    assert_same(step_of(model), expected)
    assert encoded == [2]
    model.zero_grad()
    model.keep_captions(ids)
    encoded.clear()
    assert_same(step_of(model), expected)
    assert encoded == []


@torch.no_grad()
def test_only_the_loss_reads_what_is_kept(encoded):
    model = build().train()
    inputs, samples = batch('retrieval')
    before = model(inputs)
    model.keep_captions(inputs['text'].flip(1))  # wrong, were they looked at
    encoded.clear()
    assert all(map(torch.equal, model(inputs), before))
    model(inputs, samples, mode='predict')
    assert encoded == [8, 8]


def test_what_is_kept_is_float32_and_no_state(encoded):
    model = build()
    names = model.state_dict().keys()
    inputs, samples = batch('retrieval')
    with torch.autocast('cpu', torch.bfloat16):
        model.keep_captions(inputs['text'])
        kept = model._recall(inputs['text'])
    assert torch.equal(kept, model.text(inputs['text']))
    assert model.state_dict().keys() == names
    model.load_state_dict(model.state_dict())
    encoded.clear()
    model(inputs, samples, mode='loss')
    assert encoded == [8], 'new weights need new features'


def test_a_learning_text_tower_is_refused():
    model = build(trainable='ln_final')
    message = "text tower learns .2 trainable parameters, such as 'ln_final.weight'"
    with pytest.raises(ValueError, match=f'{message}.*freeze it'):
        model.keep_captions(tokens('a dog'))


# --- The hook -----------------------------------------------------------------------


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """Six videos with two captions each, six captions that differ; two epochs."""
    return write_tiny_retrieval(tmp_path_factory.mktemp('captions'))


def runner(config, work_dir, hook=HOOK, dataset=None, **changes):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(changes)
    cfg.custom_hooks += [hook]
    if dataset is not None:
        cfg.train_dataloader.dataset = dataset
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('wrapped', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_caption_is_encoded_once_a_run(config, tmp_path, encoded, wrapped):
    """Validation encodes its fifty captions as ever, in batches of two videos."""
    dataset = Config.fromfile(config).train_dataloader.dataset
    repeated = dict(type='RepeatDataset', dataset=dataset, times=2)
    both = dict(type='ConcatDataset', datasets=[dataset, repeated])
    run = runner(config, tmp_path, dataset=both if wrapped else dataset)
    run.train()
    assert encoded == [6, *[20, 20, 10] * 2]
    assert run.iter == (36 if wrapped else 12)


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(config, tmp_path):
    whole = runner(config, tmp_path / 'whole')
    whole.train()
    runner(config, tmp_path / 'cut', **{'train_cfg.max_epochs': 1}).train()
    resumed = runner(config, tmp_path / 'cut', resume=True)
    resumed.train()
    assert resumed.epoch == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_recognizer_has_no_captions(tmp_path):
    class Recognizer:
        model = torch.nn.Linear(1, 1)

    hook = HOOKS.build(HOOK)
    with pytest.raises(ValueError, match='the model is a Linear; leave the hook out'):
        hook.before_train(Recognizer)


def test_what_cannot_be_kept_is_refused_before_training(config, tmp_path):
    small = dict(HOOK, max_mb=0.001)
    message = 'features of 6 captions take 0.002 MB, max_mb=0.001 allows less; raise'
    with pytest.raises(ValueError, match=message):
        runner(config, tmp_path / 'small', small).train()
    pipeline = tiny_config(config.parent)['train_dataloader']['dataset']['pipeline']
    untold = {'train_dataloader.dataset.pipeline': pipeline}
    message = 'VideoCaptionDataset has no CaptionTokenize in its pipeline.*add it'
    with pytest.raises(ValueError, match=message):
        runner(config, tmp_path / 'untold', **untold).train()
