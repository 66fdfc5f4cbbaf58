"""What a checkpoint holds, what loading refuses, and epochs that repeat."""

import errno
import fcntl
import multiprocessing
import os
import random
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from tiny import TEXT, VIT, wild

from mmstop.compat.reader import read
from mmstop.engine import ReseedHook, TrainableCheckpointHook, seed_worker
from mmstop.engine.saving import SaveError, lock_folder
from mmstop.errors import ConfigError
from mmstop.registry import MODELS


class Model(BaseModel):
    """STOP with a text head, on inputs that need no files."""

    def __init__(self, **stop):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = MODELS.build(dict(type='STOPCLIPViT', clip=VIT, **stop))
        classes = ['run', 'jump']
        self.head = MODELS.build(dict(type='CLIPTextHead', text=TEXT, classes=classes))

    def forward(self, inputs, mode='tensor'):
        scores = self.head(self.backbone(torch.stack(inputs)))
        return dict(loss=scores.square().mean()) if mode == 'loss' else scores


def run(work_dir, model=None, epochs=2, hooks=(), **checkpoint):
    loader = dict(
        batch_size=2,
        dataset=[dict(inputs=video) for video in wild(4, 3)],
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    hook = dict(type='TrainableCheckpointHook', **{'interval': 1, **checkpoint})
    return Runner(
        model or Model(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        default_hooks=dict(checkpoint=hook),
        custom_hooks=[dict(type='ReseedHook'), *hooks],
        randomness=dict(seed=0),
        experiment_name=str(work_dir),
    )


def load(path):
    return read(path)


def test_checkpoint_holds_what_was_trained(tmp_path):
    model = Model(selection='hard')
    run(tmp_path, model).train()
    state = load(tmp_path / 'epoch_2.pth')['state_dict']
    assert not any('clip.' in name or 'text.' in name for name in state)
    # The scorers that 'hard' freezes are nobody else's to bring.
    assert 'backbone.spatial.scorer.conv.weight' in state
    own = {name for name, _ in model.named_parameters() if name in state}
    assert own == {
        name
        for name, _ in model.named_parameters()
        if not name.startswith(('backbone.clip', 'head.text'))
    }


def test_loading_gives_back_what_was_saved(tmp_path):
    model = Model()
    run(tmp_path, model).train()
    other = Model()
    runner = run(tmp_path / 'other', other)
    runner.load_checkpoint(str(tmp_path / 'epoch_2.pth'), strict=True)
    bias = 'backbone.temporal.bank.bias'
    assert not torch.equal(Model().state_dict()[bias], model.state_dict()[bias])
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_averaged_models_are_saved_and_resumed(tmp_path):
    ema = [dict(type='EMAHook', ema_type='ExponentialMovingAverage')]
    run(tmp_path, hooks=ema).train()
    state = load(tmp_path / 'epoch_2.pth')
    assert not any('clip.' in name for name in state['ema_state_dict'])
    longer = run(tmp_path, epochs=3, hooks=ema)
    longer._resume = True
    longer.train()
    assert longer.epoch == 3


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            lambda s: s.pop('backbone.temporal.bank.weight'),
            r"lacks trained parameters: \['backbone.temporal.bank.weight'\]",
        ),
        (
            lambda s: s.update({'head.fc.weight': torch.zeros(1)}),
            r"parameters that the model does not: \['head.fc.weight'\]",
        ),
        (
            lambda s: s.update({'backbone.temporal.bank.bias': torch.zeros(5)}),
            r'temporal.bank.bias \(5,\) instead of \(4992,\)',
        ),
    ],
    ids=['missing', 'unknown', 'shape'],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, spoil, message):
    runner = run(tmp_path, epochs=1)
    runner.train()
    checkpoint = load(tmp_path / 'epoch_1.pth')
    spoil(checkpoint['state_dict'])
    path = tmp_path / 'spoilt.pth'
    torch.save(checkpoint, path)
    before = {n: v.clone() for n, v in runner.model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        runner.load_checkpoint(str(path))
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, before[name])
    run(tmp_path / 'loose', strict=False).load_checkpoint(str(path))


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """The second checkpoint breaks off half-way; with one kept, the first is left."""
    sync = os.fsync

    def full(descriptor):
        if 'epoch_2' in os.readlink(f'/proc/self/fd/{descriptor}'):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    message = (
        r'epoch_2.pth was not saved: No space left on device. It takes \d+\.\d MB and '
        r'the file system has \d+\.\d MB left. .*: make room .* with --resume'
    )
    with pytest.raises(SaveError, match=message):
        run(tmp_path, max_keep_ckpts=1).train()
    assert sorted(p.name for p in tmp_path.glob('*.p*t*')) == ['epoch_1.pth']
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'epoch_1.pth'
    monkeypatch.undo()
    resumed = run(tmp_path, max_keep_ckpts=1)
    resumed._resume = True
    resumed.train()
    assert sorted(p.name for p in tmp_path.glob('*.pth*')) == ['epoch_2.pth']
    undisturbed = run(tmp_path / 'undisturbed')
    undisturbed.train()
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


class Scores(BaseMetric):
    """Give one score that rises in every epoch and one that rises in the first."""

    epoch = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.epoch += 1
        return dict(acc_up=self.epoch, acc_down=-self.epoch)


@pytest.mark.parametrize(
    'options, names',
    [
        (
            dict(save_best=['acc_up', 'acc_down'], max_keep_ckpts=1),
            ['best_acc_down_epoch_1.pth', 'best_acc_up_epoch_2.pth', 'epoch_2.pth'],
        ),
        (
            dict(save_best='acc_up', interval=-1, save_last=False),
            ['best_acc_up_epoch_2.pth'],
        ),
        (
            dict(save_best='auto', interval=2, filename_tmpl='e{}.pth'),
            ['best_acc_up_e2.pth', 'e2.pth'],
        ),
    ],
    ids=['two', 'only', 'auto'],
)
def test_best_and_published_checkpoints(options, names, tmp_path):
    runner = run(tmp_path, published_keys=['state_dict'], **options)
    runner._val_loop = dict(type='ValLoop')
    runner._val_dataloader = runner._train_dataloader
    runner._val_evaluator = Evaluator(Scores())
    runner.train()
    published = {re.sub(r'-[0-9a-f]{8}', '', p.name): p for p in tmp_path.glob('*-*')}
    saved = {p.name for p in tmp_path.glob('*.p*t*')} - {
        p.name for p in published.values()
    }
    assert sorted(saved) == sorted(published) == names
    for name, path in published.items():
        assert load(path).keys() == {'state_dict'}
        whole = load(tmp_path / name)
        assert {'state_dict', 'meta', 'message_hub'} <= whole.keys()
        for key, value in load(path)['state_dict'].items():
            assert torch.equal(whole['state_dict'][key], value)


class Noise(torch.utils.data.Dataset):
    """What a data worker draws from each of the three random states."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return random.random(), float(np.random.rand()), torch.rand(()).item()


def draws(num_workers, epochs):
    loader = torch.utils.data.DataLoader(
        Noise(), 2, num_workers=num_workers, worker_init_fn=seed_worker
    )

    class Runner:
        seed = 7

    seen = {}
    for epoch in epochs:
        Runner.epoch = epoch
        ReseedHook().before_train_epoch(Runner)
        seen[epoch] = [tuple(x.flatten().tolist()) for x in map(torch.stack, loader)]
    return seen


@pytest.mark.parametrize('num_workers', [0, 2])
def test_epochs_repeat_but_differ(num_workers):
    whole, resumed = draws(num_workers, [0, 1, 2]), draws(num_workers, [2])
    assert whole[2] == resumed[2]
    values = [x for epoch in whole.values() for batch in epoch for x in batch]
    assert len(set(values)) == len(values), (
        'a worker or an epoch draws what another did'
    )


def test_size_of_a_checkpoint_of_the_paper_s_backbone(tmp_path):
    clip = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights=None)
    model = MODELS.build(dict(type='STOPCLIPViT', clip=clip))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoint = dict(state_dict=model.state_dict())

    class Runner:
        pass

    Runner.model = model
    TrainableCheckpointHook().before_save_checkpoint(Runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'weights.pth')
    torch.save(dict(checkpoint, optimizer=optimizer.state_dict()), tmp_path / 'all.pth')
    assert (tmp_path / 'weights.pth').stat().st_size < 31e6
    assert (tmp_path / 'all.pth').stat().st_size < 100e6


def test_one_line_says_what_trains(tmp_path):
    runner = run(tmp_path, epochs=1, hooks=[dict(type='ModelInfoHook')])
    runner.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in runner.model.parameters())
    assert f'{trained:,} of {total:,} parameters train (' in log
    assert 'CLIPViT ViT-tiny with weights random' in log


# --- Runs that are not to be ----------------------------------------------------------


def hold(folder, pipe):
    """Hold the lock of a folder, with a data worker beside that outlives this."""
    lock = lock_folder(folder)
    worker = multiprocessing.get_context('fork').Process(target=signal.pause)
    worker.start()
    pipe.send(worker.pid)
    signal.pause()
    lock.close()


def test_a_second_training_in_a_folder_is_refused(tmp_path):
    here, there = multiprocessing.Pipe()
    first = multiprocessing.get_context('fork').Process(
        target=hold, args=(tmp_path, there)
    )
    first.start()
    worker = here.recv()
    message = rf"another training is running in work_dir='{tmp_path}'; .*--work-dir"
    try:
        with pytest.raises(ConfigError, match=message):
            run(tmp_path).train()
        assert not list(tmp_path.glob('*.pth'))
        first.kill()
        first.join()
        os.kill(worker, 0)  # it is still there
        lock_folder(tmp_path).close()
    finally:
        first.kill()
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_systems_without_locks_do(number, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'lockf', refuse)
    lock_folder(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(ConfigError, match="work_dir='/proc' cannot be written: "):
        lock_folder('/proc')


def test_flexible_runner_resumes_where_it_was(tmp_path):
    def flexible(epochs, resume=False):
        loader = dict(
            batch_size=2,
            dataset=[dict(inputs=video) for video in wild(4, 3)],
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        hook = dict(type='TrainableCheckpointHook', interval=1, save_best='acc_up')
        return FlexibleRunner(
            Model(),
            work_dir=str(tmp_path),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=Evaluator(Scores()),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
            default_hooks=dict(checkpoint=dict(hook, rule='greater')),
            resume=resume,
            experiment_name=f'{tmp_path} {epochs}',
        )

    flexible(1).train()
    meta = {path.name: load(path)['meta'] for path in tmp_path.glob('*.pth')}
    assert {name: (m['epoch'], m['iter']) for name, m in meta.items()} == {
        'epoch_1.pth': (1, 2),
        'best_acc_up_epoch_1.pth': (1, 2),
    }
    longer = flexible(2, resume=True)
    before = {name: v.clone() for name, v in longer.model.state_dict().items()}
    longer.train()
    assert (longer.epoch, longer.iter) == (2, 4)
    after = longer.model.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
