"""NaN and infinity in inputs, loss and gradients: the error, and the step not taken."""

from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.optimizer import amp_optimizer_wrapper as amp
from mmengine.runner import Runner
from poison import BANK, ChangeLog
from tiny_run import ROOT, run, write_tiny_retrieval, write_tiny_run
from torch.nn.utils import get_total_norm

from mmstop.compat.reader import read
from mmstop.engine import FiniteHook
from mmstop.engine.finite import FiniteOptimWrapper

ALL, NOTHING = {'weights', 'optimizer', 'average'}, set()
VIDEO = r'\S*/videos/[ab]/(red|green|blue)\.mp4'
FRAMES = dict(type='PoisonFrames', name='b/green.mp4')
LOSS = dict(type='PoisonLoss', calls=[1])
GRADIENT = dict(type='PoisonGradient', iters=[1])


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finite')
    write_tiny_run(folder)
    write_tiny_retrieval(folder)
    return folder


def watched(data, work_dir, *hooks, name='tiny', **finite):
    """Return the config of three steps, averaged, watched and noted down."""
    cfg = Config.fromfile(data / f'{name}.py')
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    cfg.custom_imports.imports = ['mmstop', 'poison']
    cfg.train_cfg.max_epochs = 1
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks = [
        dict(type='FiniteHook', **finite),
        dict(type='EMAHook', ema_type='ExponentialMovingAverage'),
        dict(type='ChangeLog'),
        *hooks,
    ]
    return cfg


def changes(runner):
    return next(h.changed for h in runner.hooks if isinstance(h, ChangeLog))


def train(cfg):
    """Train; return what each iteration changed, and the log."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    logs = Path(cfg.work_dir).glob('*/*.log')
    return changes(runner), ''.join(path.read_text() for path in logs)


def train_fails(cfg, message):
    runner = Runner.from_cfg(cfg)
    weights = [p.clone() for p in runner.model.parameters()]
    with pytest.raises(FloatingPointError, match=message):
        runner.train()
    assert changes(runner) == [ALL] * runner.iter
    if runner.iter == 0:
        assert all(map(torch.equal, weights, runner.model.parameters()))
    assert not list(Path(cfg.work_dir).glob('*.pth'))


@pytest.mark.parametrize('name', ['tiny', 'retrieval'])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_nan_in_a_video_names_it(name, num_workers, data, tmp_path):
    cfg = watched(data, tmp_path, name=name)
    cfg.train_dataloader.num_workers = num_workers
    cfg.train_dataloader.dataset.pipeline.insert(-1, FRAMES)
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset
    )
    train_fails(cfg, rf'the inputs are not finite in {data}/videos/b/green.mp4\. Look')


def test_workers_that_run_already_keep_no_names(data, tmp_path):
    cfg = watched(data, tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.train_dataloader.num_workers = 1
    cfg.model.cls_head.loss_cls = LOSS
    train_fails(cfg, r"a sample without a name \(let .* meta_keys=\('filename', 'frame")


def test_infinite_loss_names_its_batch(data, tmp_path):
    cfg = watched(data, tmp_path)
    cfg.model.cls_head.loss_cls = LOSS
    train_fails(
        cfg, rf'^epoch 1, iteration 2: the loss is inf on .* of {VIDEO}, {VIDEO}\. Look'
    )


def test_nan_gradient_is_named(data, tmp_path):
    cfg = watched(data, tmp_path, GRADIENT)
    train_fails(
        cfg, rf'2: the gradients of {BANK} are not finite .* of {VIDEO}, {VIDEO}\. Look'
    )


def poison(cfg, what):
    if what == 'loss':
        cfg.model.cls_head.loss_cls = LOSS
    elif what == 'gradient':
        cfg.custom_hooks.append(GRADIENT)
    else:
        cfg.train_dataloader.dataset.pipeline.insert(-1, FRAMES)
        cfg.train_dataloader.sampler.shuffle = False  # it comes in the second batch
    return cfg


@pytest.mark.parametrize('what', ['frames', 'loss', 'gradient'])
def test_skipped_step_changes_nothing(what, data, tmp_path):
    cfg = poison(watched(data, tmp_path, action='skip'), what)
    changed, log = train(cfg)
    assert changed == [ALL, NOTHING, ALL]
    assert 'skipped this step, number 1 of the epoch' in log
    assert '1 steps of this epoch were skipped' in log


def test_good_run_is_left_alone(data, tmp_path):
    """Its weights are those of a run that nobody watches."""
    cfgs = [watched(data, tmp_path / name) for name in ('watched', 'alone')]
    cfgs[1].custom_hooks.pop(0)
    logs = [train(cfg)[1] for cfg in cfgs]
    states = [read(Path(cfg.work_dir, 'epoch_1.pth')) for cfg in cfgs]
    for name, value in states[0]['state_dict'].items():
        assert torch.equal(value, states[1]['state_dict'][name]), name
    assert 'skipped' not in logs[0]


def test_accumulated_steps_are_skipped_whole(data, tmp_path):
    cfg = watched(data, tmp_path, action='skip')
    cfg.train_dataloader.batch_size = 1
    cfg.optim_wrapper.accumulative_counts = 3
    cfg.model.cls_head.loss_cls = LOSS
    changed, _ = train(cfg)
    assert ['weights' in names for names in changed] == [False] * 5 + [True]


def test_too_many_skips_in_a_row_stop_the_run(data, tmp_path):
    cfg = watched(data, tmp_path, action='skip', max_skips=1)
    cfg.model.cls_head.loss_cls = dict(LOSS, calls=[0, 2])
    assert train(cfg)[0] == [NOTHING, ALL, NOTHING]
    cfg.model.cls_head.loss_cls = dict(LOSS, calls=[0, 1])
    with pytest.raises(FloatingPointError, match=r'skip 2 in a row and max_skips=1\.'):
        Runner.from_cfg(cfg).train()


@pytest.fixture
def scaled(data, tmp_path, monkeypatch):
    """Mixed precision on the CPU, whose loss scaler is the one of GPUs."""
    monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    cfg = watched(data, tmp_path, action='raise', max_skips=1)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    return cfg


def test_loss_scaler_may_skip(scaled):
    scaled.custom_hooks.append(dict(GRADIENT, value=float('inf')))
    changed, log = train(scaled)
    assert changed == [ALL, NOTHING, ALL]
    assert 'iteration 2: the scaled gradients are not finite; skipped' in log


def test_loss_scaler_may_not_skip_for_ever(scaled):
    scaled.custom_hooks.append(dict(GRADIENT, iters=[1, 2]))
    with pytest.raises(FloatingPointError, match='skip 2 in a row and max_skips=1'):
        Runner.from_cfg(scaled).train()


def test_loss_that_no_scale_can_mend(scaled):
    scaled.model.cls_head.loss_cls = LOSS
    with pytest.raises(FloatingPointError, match='iteration 2: the loss is inf'):
        Runner.from_cfg(scaled).train()


@pytest.mark.slow
@pytest.mark.parametrize('action', ['raise', 'skip'])
def test_two_processes_decide_alike(action, data, tmp_path):
    """The second one's loss is infinite, and its gradients are not."""
    cfg = watched(data, tmp_path, action=action)
    cfg.custom_hooks.pop()
    cfg.model.cls_head.loss_cls = dict(LOSS, rank=1)
    cfg.dump(tmp_path / 'two.py')
    result = run(
        ROOT / 'tools' / 'dist_train.sh', tmp_path / 'two.py', 2,
        PYTHONPATH=f'{ROOT}:{ROOT / "tests"}',
    )  # fmt: skip
    if action == 'raise':
        assert result.returncode != 0
        assert result.stderr.count('FloatingPointError: epoch 1, iteration 2: ') >= 2
    else:
        assert result.returncode == 0, result.stderr
        assert '1 steps of this epoch were skipped' in result.stdout


class Two(BaseModel):
    """Two parts with an optimizer each; one loss is infinite in some steps."""

    def __init__(self, calls):
        super().__init__()
        self.parts = torch.nn.ModuleDict({n: torch.nn.Linear(2, 1) for n in 'ab'})
        self.calls, self.call, self.changed = calls, 0, []

    def forward(self, x, mode='tensor'):
        return x

    def train_step(self, data, optim_wrapper):
        before = {name: part.weight.clone() for name, part in self.parts.items()}
        for name, part in self.parts.items():
            loss = part(data['x']).square().mean()
            spoilt = name == 'b' and self.call in self.calls
            optim_wrapper[name].update_params(loss + torch.inf if spoilt else loss)
        self.call += 1
        self.changed.append(
            [n for n in 'ab' if not torch.equal(before[n], self.parts[n].weight)]
        )
        return {}


@pytest.mark.parametrize(
    'calls, finite, message',
    [
        ([1], dict(action='skip'), None),
        ([1], dict(action='raise'), 'iteration 2: the loss is inf'),
        ([1, 2], dict(action='skip', max_skips=1), 'skip 2 in a row'),
    ],
)
def test_several_optimizers_are_watched_apart(calls, finite, message, tmp_path):
    model = Two(calls)
    wrappers = {
        name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1))
        for name, part in model.parts.items()
    }
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(x=torch.ones(2))] * 4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=OptimWrapperDict(**wrappers),
        default_hooks=dict(finite=dict(type='FiniteHook')),
        custom_hooks=[dict(type='FiniteHook', **finite)],  # the last one decides
        experiment_name=str(tmp_path),
    )
    if message is None:
        runner.train()
        assert model.changed == [['a', 'b'], ['a'], ['a', 'b'], ['a', 'b']]
        return
    with pytest.raises(FloatingPointError, match=message):
        runner.train()


def test_clipping_uses_the_norm_of_the_decision(monkeypatch):
    norms = []

    def measure(*args):
        norms.append(get_total_norm(*args))
        return norms[-1]

    monkeypatch.setattr('mmstop.engine.finite.get_total_norm', measure)
    monkeypatch.delattr(OptimWrapper, '_clip_grad')  # which computes one of its own
    part, hook = torch.nn.Linear(2, 1), FiniteHook()
    hook.runner = None
    optimizer = torch.optim.SGD(part.parameters(), lr=1)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=0.1))
    FiniteOptimWrapper.watch(wrapper, hook)
    before = torch.nn.utils.parameters_to_vector(part.parameters())
    wrapper.update_params(part(torch.tensor([3.0, 4.0])).sum())
    change = before - torch.nn.utils.parameters_to_vector(part.parameters())
    assert change.norm().item() == pytest.approx(0.1, rel=1e-4)
    assert len(norms) == 1
    logged = wrapper.message_hub.get_scalar('train/grad_norm').current()
    assert logged == pytest.approx(26**0.5)


def test_arguments():
    with pytest.raises(ValueError, match="action='stop' is unknown; say 'raise' or"):
        FiniteHook(action='stop')
    with pytest.raises(ValueError, match='max_skips=-1 is negative'):
        FiniteHook(max_skips=-1)
