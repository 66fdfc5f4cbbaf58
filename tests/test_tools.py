"""The command-line tools on a tiny run."""

import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.model import BaseModule
from own_configs import CONFIGS, ONE_EACH
from PIL import Image
from tiny_run import ROOT, run, tiny_config, write_tiny_run

from mmstop.compat.reader import read
from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.config_parts import Part, accepted_arguments
from mmstop.errors import ConfigError


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f'tool_{name}', ROOT / 'tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train = load_tool('train')
test = load_tool('test')


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def trained(config) -> Path:
    """A work directory after two epochs."""
    result = run(sys.executable, ROOT / 'tools' / 'train.py', config)
    assert result.returncode == 0, result.stderr
    return config.parent / 'work'


def weights(path: Path) -> dict:
    return read(path)['state_dict']


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- Training, resuming, testing ----------------------------------------------------


def test_resumed_run_equals_undisturbed(config, trained, tmp_path):
    longer = ['--cfg-options', 'train_cfg.max_epochs=3']
    tool = ROOT / 'tools' / 'train.py'
    resumed = run(sys.executable, tool, config, '--resume', *longer)
    assert resumed.returncode == 0, resumed.stderr
    undisturbed = run(sys.executable, tool, config, '--work-dir', tmp_path, *longer)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert_same(weights(tmp_path / 'epoch_3.pth'), weights(trained / 'epoch_3.pth'))


def test_resume_goes_on_or_else_starts_as_the_config_says(config, trained, tmp_path):
    tool, weights = load_tool('train'), str(trained / 'epoch_1.pth')
    arguments = [str(config), '--resume', '--work-dir']
    start = ['--cfg-options', f'load_from={weights}']

    def starts(*rest):
        cfg = tool.read_config(tool.parse_args([*arguments, *map(str, rest)]))
        return cfg.get('resume', False), cfg.get('load_from')

    assert starts(tmp_path) == (False, None)
    assert starts(tmp_path, *start) == (False, weights)
    assert starts(trained, *start) == starts(trained) == (True, None)
    given = tool.parse_args([str(config), '--resume', weights])
    assert tool.read_config(given).load_from == weights
    assert tool.read_config(given).resume


def test_dump_and_show(config, trained, tmp_path):
    shifted = tmp_path / 'shifted.txt'
    lines = [line.split() for line in (config.parent / 'test.txt').open()]
    shifted.write_text('\n'.join(f'{name} {(int(k) + 1) % 3}' for name, k in lines))
    pictures = {}
    for truth, ann_file in (('right', 'test.txt'), ('wrong', shifted)):
        dump, show = tmp_path / f'{truth}.pkl', tmp_path / truth
        arguments = [config, trained / 'epoch_2.pth', '--dump', dump]
        arguments += ['--show-dir', show, '--work-dir', tmp_path, '--cfg-options']
        arguments += [f'test_dataloader.dataset.ann_file={ann_file}']
        assert test.main([str(a) for a in arguments]) == 0
        samples = load(str(dump))
        assert len(samples) == 5
        pictures[truth] = {p.name: np.asarray(Image.open(p)) for p in show.iterdir()}
    names = [f'{Path(name).stem}_{i:06d}.png' for i, (name, _) in enumerate(lines)]
    assert sorted(pictures['right']) == sorted(names)
    predicted = [int(s['pred_label']) == (int(k) + 1) % 3
                 for s, (_, k) in zip(samples, lines)]  # fmt: skip
    for i, name in enumerate(names):
        right, wrong = pictures['right'][name], pictures['wrong'][name]
        channel = ['red', 'green', 'blue'].index(name.split('_')[0])
        for picture in (right, wrong):  # the last frame keeps its colour
            assert picture[-20:, -20:].mean((0, 1)).argmax() == channel
        corner = wrong[1, 1].argmax()
        assert corner == (1 if predicted[i] else 0)  # green or red
        assert (right[:60] != wrong[:60]).any()  # the labels differ
        assert (right[70:] == wrong[70:]).all()  # the frames do not
    assert not all(predicted)


TRAIN_AND_TEST = """
import runpy, sys
tools, config, work_dir, checkpoint = sys.argv[1:]
for name, *arguments in (('train', config), ('test', config, checkpoint)):
    sys.argv = [name, *arguments, '--work-dir', work_dir]
    runpy.run_path(f'{tools}/{name}.py', run_name='__main__')
"""


@pytest.mark.slow
def test_mmaction2s_own_tools(config, trained, tmp_path):
    package = importlib.util.find_spec('mmaction').submodule_search_locations[0]
    tools, checkpoint = Path(package, '.mim', 'tools'), tmp_path / 'epoch_2.pth'
    result = run(
        sys.executable, '-c', TRAIN_AND_TEST, tools, config, tmp_path, checkpoint
    )
    assert result.returncode == 0, result.stderr
    assert_same(weights(checkpoint), weights(trained / 'epoch_2.pth'))
    assert 'Epoch(test) [3/3]    acc/top1' in result.stdout


def test_seed_wins_over_config(config):
    def randomness(*arguments):
        return train.read_config(train.parse_args([str(config), *arguments])).randomness

    assert randomness() == dict(seed=0)
    assert randomness('--seed', '7') == dict(seed=7)
    assert randomness('--deterministic') == dict(seed=0, deterministic=True)
    assert randomness('--diff-rank-seed', '--seed', '0') == dict(
        seed=0, diff_rank_seed=True
    )


@pytest.mark.parametrize(
    'hooks',
    [
        {},
        dict(visualization=dict(type='VisualizationHook', show=True)),
        dict(visualization=dict(type='VideoVisualizationHook', num_frames=3)),
    ],
    ids=['none', 'mmaction2s', 'ours'],
)
def test_show_dir_sets_the_hook(hooks, config, tmp_path):
    cfg = Config.fromfile(config)
    del cfg._cfg_dict['default_hooks']
    if hooks:
        cfg.default_hooks = hooks
    path = tmp_path / 'hooks.py'
    cfg.dump(path)
    arguments = [str(path), '--show-dir', 'there', '--interval', '5']
    hook = test.read_config(test.parse_args(arguments)).default_hooks.visualization
    expected = dict(type='VideoVisualizationHook', enable=True)
    expected.update(out_dir='there', interval=5)
    if 'num_frames' in hooks.get('visualization', {}):
        expected['num_frames'] = 3
    assert hook == expected


def test_zero_shot_needs_no_checkpoint(config, tmp_path, capsys):
    arguments = [str(config), '--work-dir', str(tmp_path)]
    assert test.main(arguments) == 2
    assert 'error: no checkpoint given, but ' in capsys.readouterr().err
    cfg = Config.fromfile(config)
    cfg.model.backbone = cfg.model.backbone.clip
    zero_shot = tmp_path / 'clip.py'
    cfg.dump(zero_shot)
    for checkpoint in ([], ['none']):
        time.sleep(1)  # runs are told apart by the second in which they begin
        assert test.main([str(zero_shot), *checkpoint, *arguments[1:]]) == 0


@pytest.mark.parametrize(
    'epochs, batch_size, kept, said',
    [
        (2, 2, ['LinearLR', 'CosineAnnealingLR'], ''),
        (1, 2, ['LinearLR'], 'CosineAnnealingLR: epochs 1 to 1 of 1, has 0 of the 1'),
        (2, 6, ['CosineAnnealingLR'], 'LinearLR: epochs 0 to 1 of 2, has 1 of the 2'),
    ],
)
def test_short_parts_of_a_schedule_are_left_out(
    epochs, batch_size, kept, said, config, tmp_path, capfd
):
    """A warm-up of one step would leave the learning rate where it starts."""
    path = tmp_path / f'epochs{epochs}_batch{batch_size}.py'
    path.write_text(
        f'_base_ = {str(config)!r}\n'
        "param_scheduler = [dict(type='LinearLR', end=1, convert_to_iter_based=True),\n"
        "    dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True)]\n"
    )
    options = [f'train_cfg.max_epochs={epochs}']
    options += [f'train_dataloader.batch_size={batch_size}']
    given = [str(path), '--no-validate', '--work-dir', str(tmp_path / 'work')]
    assert train.main([*given, '--cfg-options', *options]) == 0
    output = capfd.readouterr()
    printed = output.out + output.err
    left_out = ' of param_scheduler is left out: its range,'
    assert printed.count(left_out) == bool(said)
    assert said.replace(':', left_out) in printed
    parts = read(tmp_path / 'work' / f'epoch_{epochs}.pth')['param_schedulers']
    assert len(parts) == len(kept)
    for name, part in zip(kept, parts):
        assert ('T_max' in part) == (name == 'CosineAnnealingLR')
        assert part['base_values'] == [1e-3]


def test_a_part_that_ends_before_it_begins_is_an_error(config, tmp_path):
    path = tmp_path / 'backwards.py'
    part = dict(type='LinearLR', begin=1, end=1)
    path.write_text(f'_base_ = {str(config)!r}\nparam_scheduler = [{part}]\n')
    with pytest.raises(ValueError, match='end should be larger than begin'):
        train.main([str(path), '--no-validate', '--work-dir', str(tmp_path / 'work')])


def test_amp_of_a_config_that_imports_its_classes(tmp_path, monkeypatch):
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from mmengine.config import read_base\n'
        'from mmengine.optim import OptimWrapper\n'
        'from torch.optim import AdamW\n'
        'train_dataloader = dict(batch_size=1)\n'
        'train_cfg = dict(max_epochs=1)\n'
        'optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))\n'
    )
    monkeypatch.setattr(train, 'get_device', lambda: 'cuda')
    cfg = train.read_config(train.parse_args([str(path), '--amp']))
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'


# --- Errors, before anything is built -----------------------------------------------

ANN_FILE = 'train_dataloader.dataset.ann_file'
PREFIX = 'test_dataloader.dataset.data_prefix.video'
WEIGHTS = 'model.backbone.clip.weights'
LR = 'optim_wrapper.optimizer.lr'

TRAIN_ERRORS = {
    'amp': (['--amp'], 'mixed precision needs a GPU.*leave out --amp'),
    'amp_config': (
        ['--cfg-options', 'optim_wrapper.type=AmpOptimWrapper'],
        'mixed precision needs a GPU.*leave out optim_wrapper.type',
    ),
    'resume': (['--resume', 'no.pth'], "checkpoint 'no.pth': there is no such file"),
    'auto_scale_lr': (['--auto-scale-lr'], r'add auto_scale_lr=dict\(base_batch_size'),
    'top_level': (
        ['--cfg-options', 'optim_wraper.optimizer.lr=1'],
        "no 'optim_wraper'; did you mean 'optim_wrapper'",
    ),
    'option': (
        ['--cfg-options', 'model.backbone.alfa=1'],
        "model.backbone has no 'alfa'; did you mean 'alpha'",
    ),
    'option_through_a_number': (
        ['--cfg-options', f'{LR}.value=1'],
        r'lr.value: lr=.* lr is a dict in the child config but is of type .*float',
    ),
    'option_in_a_list': (
        ['--cfg-options', 'param_scheduler.3.T_max=1'],
        'param_scheduler.3.T_max: Index 3 exceeds the length of list',
    ),
    'option_for_an_item': (
        ['--cfg-options', 'model.cls_head.classes.0=pink'],
        'model.cls_head.classes.0: .*or a whole list',
    ),
    'option_below_a_value': (
        ['--cfg-options', f'{WEIGHTS}.type=x'],
        'weights is a dict in the child config but is of type .*NoneType',
    ),
    'option_for_a_dict': (
        ['--cfg-options', 'train_dataloader=5'],
        'train_dataloader is 5, expected a dict',
    ),
    'option_for_a_folder': (
        ['--cfg-options', 'train_dataloader.dataset.data_prefix=videos'],
        r"data_prefix is 'videos', expected a dict such as dict\(video='videos'",
    ),
    'option_of_a_hook': (
        ['--cfg-options', 'default_hooks.checkpiont.interval=2'],
        "default_hooks has no 'checkpiont'; did you mean 'checkpoint'",
    ),
    'type': (
        ['--cfg-options', 'model.backbone.type=STOPCLIPVit'],
        "model.backbone.type: .* called 'STOPCLIPVit'; did you mean 'STOPCLIPViT'",
    ),
    'ann_file': (
        ['--cfg-options', f'{ANN_FILE}=no.txt'],
        "train_dataloader.dataset.ann_file: there is no file '.*/no.txt'.*data_root",
    ),
}
TEST_ERRORS = {
    'checkpoint': (['no.pth'], "checkpoint 'no.pth': there is no such file"),
    'prefix': (
        ['--cfg-options', f'{PREFIX}=nowhere'],
        "data_prefix.video: there is no folder '.*/nowhere'",
    ),
    'option': (
        ['--cfg-options', 'test_dataloader.bach_size=1'],
        "test_dataloader has no 'bach_size'; did you mean 'batch_size'",
    ),
}
CONFIG_ERRORS = {
    "model.backbone.alfa: STOPCLIPViT takes no 'alfa'; did you mean 'alpha'": (
        'model.backbone.alfa',
        0.5,
    ),
    "model.cls_head.num_classes: CLIPTextHead takes no 'num_classes'": (
        'model.cls_head.num_classes',
        3,
    ),
    "optim_wrapper.optimizer.lrr: AdamW takes no 'lrr'; did you mean 'lr'": (
        'optim_wrapper.optimizer.lrr',
        1,
    ),
    "dataset.pipeline.1.clip_length: UniformSample takes no 'clip_length'": (
        'train_dataloader.dataset.pipeline.1.clip_length',
        8,
    ),
    "dataset.anno_file: Check.* takes no 'anno_file'; did you mean 'ann_file'": (
        'val_dataloader.dataset.anno_file',
        'x',
    ),
    "default_hooks.checkpoint.intervals: .*; did you mean 'interval'": (
        'default_hooks.checkpoint.intervals',
        1,
    ),
    "train_cfg.max_epoch: EpochBasedTrainLoop .* did you mean 'max_epochs'": (
        'train_cfg.max_epoch',
        1,
    ),
    "worker_init_fn.type: there is no function called 'seed_wroker'; .*'seed_worker'": (
        'train_dataloader.worker_init_fn.type',
        'seed_wroker',
    ),
    "randomness.sead: randomness takes no 'sead'; did you mean 'seed'": (
        'randomness.sead',
        1,
    ),
    "default_hooks.checkpoint2 has no 'type'; its keys are interval": (
        'default_hooks.checkpoint2.interval',
        1,
    ),
    'train_dataloader is 5, expected a dict': ('train_dataloader', 5),
    "custom_hooks is 'all', expected a dict, or a list": ('custom_hooks', 'all'),
    "model.backbone is 'STOPCLIPViT', expected a dict": (
        'model.backbone',
        'STOPCLIPViT',
    ),
    "train_dataloder: nothing reads this key; did you mean 'train_dataloader'": (
        'train_dataloder.batch_size',
        1,
    ),
}


@pytest.fixture
def nothing_built(monkeypatch):
    def build(*arguments):
        raise AssertionError('built although the config is at fault')

    monkeypatch.setattr('mmengine.runner.Runner.from_cfg', build)
    monkeypatch.setattr('mmstop.towers.clip.build_clip', build)


@pytest.mark.parametrize(
    'tool, arguments, message',
    [(train, *case) for case in TRAIN_ERRORS.values()]
    + [(test, *case) for case in TEST_ERRORS.values()],
    ids=[f'train-{k}' for k in TRAIN_ERRORS] + [f'test-{k}' for k in TEST_ERRORS],
)
def test_error_is_one_line(tool, arguments, message, config, capsys, nothing_built):
    assert tool.main([str(config), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: ')
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(lines[0])


@pytest.mark.parametrize('message', CONFIG_ERRORS)
def test_fault_in_config_is_named(message, tmp_path):
    cfg = Config(tiny_config(tmp_path))
    key, value = CONFIG_ERRORS[message]
    cfg.merge_from_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        check_config(cfg, [])


@pytest.mark.parametrize('option', ['a', 'a=[1,2', 'a=[(1,2', 'a=[dict(b=1,c=2)]'])
def test_what_is_no_key_and_value_is_one_line(option, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse_args(['config.py', '--cfg-options', option])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--cfg-options: expected KEY=VALUE, got ['{option}'] (" in line


def test_helper_variable_is_no_option(tmp_path):
    path = tmp_path / 'helper.py'
    path.write_text(
        "clip_vit = dict(type='CLIPViT', arch='ViT-B-32', weights='openai')\n"
        "model = dict(type='Recognizer3D', backbone=clip_vit)\n"
        'frames = 6\n'
    )
    for option in ('clip_vit.weights', 'frames'):
        message = 'is a helper variable.*; set the keys that were made from it instead'
        with pytest.raises(ConfigError, match=message):
            load_config(str(path), {option: 'other'})


def test_missing_config(capsys):
    assert train.main(['no_such_config.py']) == 2
    assert (
        "config 'no_such_config.py': there is no such file" in capsys.readouterr().err
    )


def test_nothing_to_train(config, capsys):
    options = ['--cfg-options', 'train_cfg=None']
    assert train.main([str(config), *options]) == 2
    assert 'has no train_cfg, nothing to train' in capsys.readouterr().err


def test_new_arguments_are_allowed(config):
    options = {
        'model.backbone.alpha': 0.5,
        'model.cls_head.label_smooth_eps': 0.1,
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult': 0.1,
        'optim_wrapper.clip_grad.norm_type': 2,
        'train_dataloader.pin_memory': True,
        'train_cfg.val_begin': 2,
        'default_hooks.stop.type': 'EarlyStoppingHook',
        'default_hooks.stop.monitor': 'acc/top1',
        'default_hooks.checkpoint.save_best': 'acc/top1',
        'load_from': None,
        'randomness.deterministic': True,
    }
    check_config(load_config(str(config), options), ['train', 'val', 'test'])


def test_compile_is_a_switch_or_a_dict(config, tmp_path):
    path = tmp_path / 'compiled.py'
    path.write_text(f"_base_ = '{config}'\ncompile = dict(backend='eager')\n")
    cfg = load_config(str(path), {'compile': False})
    check_config(cfg, [])
    assert cfg.compile is False


def test_other_class_brings_its_arguments(config):
    options = {
        'optim_wrapper.optimizer.type': 'SGD',
        'optim_wrapper.optimizer.momentum': 0.9,
    }
    check_config(load_config(str(config), options), [])


@pytest.mark.filterwarnings('error:.* is random')  # no test is
@pytest.mark.parametrize('name', ONE_EACH)
def test_own_configs_pass(name):
    check_config(load_config(str(CONFIGS[name])), [])


class Base:
    def __init__(self, a, b=0):
        pass


class HandsOn(Base):
    def __init__(self, c, **kwargs):
        super().__init__(a=1, **kwargs)


class Pops(HandsOn):
    def __init__(self, **kwargs):
        kwargs.pop('d', None)
        super().__init__(**kwargs)


class Keeps(torch.nn.Module):
    def __init__(self, c, **kwargs):
        super().__init__()
        self.rest = kwargs


class General(BaseModule):
    def __init__(self, c, **kwargs):
        super().__init__()
        self.rest = kwargs


def test_accepted_arguments():
    assert accepted_arguments(Base) == {'a', 'b'}
    assert accepted_arguments(HandsOn) == {'a', 'b', 'c'}
    for kind in (Pops, Keeps, General):
        assert accepted_arguments(kind) is None
    assert accepted_arguments(lambda x, y=1: None) == {'x', 'y'}
    assert 'momentum' in accepted_arguments(torch.optim.SGD)


def test_valid_arguments_are_accepted():
    """Those that a class takes from ``**kwargs`` without naming them."""
    for kind, arguments in (
        ('STGCN', {'graph_cfg', 'gcn_adaptive', 'tcn_type'}),
        ('ResNet3dSlowOnly', {'depth', 'lateral', 'norm_eval', 'init_cfg'}),
        ('TSNHead', {'num_classes', 'in_channels', 'topk', 'loss_cls'}),
        ('TimeSformer', {'num_frames', 'img_size'}),
        ('ZeroRedundancyOptimizer', {'optimizer_type', 'lr', 'weight_decay'}),
        ('CheckpointHook', {'interval', 'save_optimizer', 'priority'}),
        ('PoseDataset', {'ann_file', 'split', 'valid_ratio'}),
    ):
        names = Part('', dict(type=kind), 'mmaction').arguments()
        assert names is None or arguments <= names, kind
    for kind, mistyped in (
        ('SampleFrames', 'frame_intervall'),
        ('CLIPTextHead', 'num_classes'),
        ('TrainableCheckpointHook', 'intervall'),
    ):
        assert mistyped not in Part('', dict(type=kind), 'mmaction').arguments()


# --- Launchers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test']
)
def test_scripts_say_how_to_use_them(script):
    result = run(ROOT / 'tools' / f'{script}.sh', 'one')
    assert result.returncode == 2
    assert result.stderr.startswith('usage: ')


@pytest.mark.parametrize('kind', ['train', 'test'])
def test_slurm(kind, tmp_path):
    """Against an ``srun`` that only says what it was given."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nfor a in "$@"; do echo "$a"; done\n')
    srun.chmod(0o755)
    checkpoint = ['a b.pth'] if kind == 'test' else []
    result = run(
        ROOT / 'tools' / f'slurm_{kind}.sh', 'gpu', 'job', 'c.py', *checkpoint,
        '--work-dir', 'a dir',
        PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}',
        GPUS='16', SRUN_ARGS='--quotatype=x --nice',
    )  # fmt: skip
    given = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert given[:2] == ['--partition=gpu', '--job-name=job']
    assert {'--ntasks=16', '--ntasks-per-node=8', '--quotatype=x', '--nice'} < {*given}
    tool = str(ROOT / 'tools' / f'{kind}.py')
    after = given[given.index(tool) + 1 :]
    assert after == ['c.py', *checkpoint, '--launcher', 'slurm', '--work-dir', 'a dir']
