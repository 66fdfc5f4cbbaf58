"""The recipes of the documentation, on the CLIP that comes with the package."""

import inspect
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import open_clip
import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.runner import EpochBasedTrainLoop, Runner
from pages import ROOT, commands_of, python_of
from test_own_clips import call, make, write_clips, write_configs
from test_tools import assert_same, test, train

from mmstop.compat.reader import read
from mmstop.config import load_config
from mmstop.config_check import check_config

PAGE = (ROOT / 'docs' / 'recipes.md').read_text()
TITLES = re.findall(r'^## (.*)$', PAGE, re.M)
SECTIONS = dict(zip(TITLES, re.split(r'^## .*$', PAGE, flags=re.M)[1:]))
RECIPES = {
    title: code[0] for title, text in SECTIONS.items() if (code := python_of(text))
}
WITHOUT_CODE = ['Ctrl-C', 'Resume on another machine']
WEIGHTS = str(ROOT / 'mmstop' / 'assets' / 'ViT-moving-shapes.safetensors')
# The sizes of the CLIP that comes with the package, and its names.
TINY = {
    r'ViT-(B-16|L-14-336)-quickgelu': 'ViT-moving-shapes',
    r"weights = 'openai'": "weights = 'mmstop'",
    r'open_clip_model.safetensors': WEIGHTS,
    r'in_channels=512': 'in_channels=64',
    r'clip_len=(8|12)': 'clip_len=4',
    r'\b(224|336)\b': '56',
    r'\b(256|384)\b': '64',
    r'num_workers=4': 'num_workers=0',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips, lists and configs of the page on your own clips."""
    folder = tmp_path_factory.mktemp('recipes')
    write_configs(folder)
    write_clips(folder)
    assert make(folder / 'data/mine') == 0
    return folder


@pytest.fixture
def read_recipe(folder, tmp_path, monkeypatch):
    """Write a config with a recipe and read it as a tool does."""
    monkeypatch.chdir(folder)

    def read_recipe(title: str, tool=train) -> Config:
        code = RECIPES[title]
        for old, new in TINY.items():
            code = re.sub(old, new, code)
        path = folder / 'configs' / f'{re.sub(r"[^a-z]+", "_", title.lower())}.py'
        path.write_text(f"_base_ = 'mine.py'\n{code}")
        arguments = [str(path), '--work-dir', str(tmp_path)]
        if tool is train:
            arguments += ['--cfg-options', 'train_cfg.max_epochs=1']
        return tool.read_config(tool.parse_args(arguments))

    return read_recipe


def test_every_recipe_is_run_in_a_test():
    assert [*RECIPES, *WITHOUT_CODE] == TITLES
    assert len(python_of(PAGE)) == len(RECIPES)
    for old in TINY:
        assert re.search(old, PAGE), old


def has_scalars(runner: Runner) -> bool:
    return any(Path(runner.work_dir).rglob('events.out.tfevents.*'))


def learns_layer_norms_slowly(runner: Runner) -> bool:
    groups = runner.optim_wrapper.optimizer.param_groups
    rates = {id(p): group['initial_lr'] for group in groups for p in group['params']}
    clip = dict(runner.model.backbone.clip.named_parameters())
    learning = {name: p for name, p in clip.items() if p.requires_grad}
    return (
        learning.keys() == {name for name in clip if '.ln_' in name}
        and {rates[id(p)] for p in learning.values()} == {1e-5}
        and {*rates.values()} == {1e-3, 3e-4, 1e-5}  # 3e-4 is P^s's
    )


def is_mirrored(runner: Runner) -> bool:
    steps = runner.train_dataloader.dataset.pipeline.transforms
    return any(type(step).__name__ == 'Flip' for step in steps)


def shape(runner: Runner) -> list[int]:
    return [*runner.train_dataloader.dataset[0]['inputs'].shape]


# What each recipe changes, seen in the runner after an epoch of one step.
CHANGES = {
    'TensorBoard': has_scalars,
    'Gradient accumulation': lambda x: x.optim_wrapper._accumulative_counts == 4,
    'Early stopping': lambda x: 'EarlyStoppingHook' in x.get_hooks_info(),
    'Classes that a mirror changes': lambda x: not is_mirrored(x),
    'ViT-B/16': lambda x: x.model.backbone.clip.source == 'mmstop',
    'ViT-L/14 at 336 pixels': lambda x: shape(x) == [1, 3, 4, 56, 56],
    'Train parts of CLIP': learns_layer_norms_slowly,
    "Other people's heads": lambda x: x.model.cls_head.fc_cls.out_features == 3,
    'Configs of 2D models': lambda x: shape(x) == [1, 3, 4, 56, 56],
    'GPU memory and data workers': lambda x: x.model.backbone.clip.checkpoint,
    'Weights without a network': lambda x: x.model.backbone.clip.source.endswith(
        '.safetensors'
    ),
}  # fmt: skip


@pytest.mark.parametrize('title', CHANGES)
def test_recipe_trains(title, read_recipe):
    runner = Runner.from_cfg(read_recipe(title))
    runner.train()
    assert runner.iter >= 1
    assert CHANGES[title](runner), title


def test_several_clips_and_crops(read_recipe):
    runner = Runner.from_cfg(read_recipe('Several clips and crops', test))
    inputs = runner.test_loop.dataloader.dataset[0]['inputs']
    assert inputs.shape == (4 * 3, 3, 4, 56, 56)
    assert 0 <= runner.test()['acc/top1'] <= 1


def test_weights_and_biases(read_recipe, monkeypatch):
    cfg = read_recipe('Weights & Biases')
    _, backend = cfg.visualizer.vis_backends
    kind = VISBACKENDS.get(f'mmaction.{backend.pop("type")}')
    inspect.signature(kind).bind(save_dir='', **backend)
    if find_spec('wandb'):
        monkeypatch.setenv('WANDB_MODE', 'offline')
        Runner.from_cfg(cfg).train()


def test_clips_of_the_page_are_those_of_open_clip():
    named = re.findall(r"arch = '([^']+)'\nweights = '([^']+)'", PAGE)
    assert len(named) == 2 and {*open_clip.list_pretrained()}.issuperset(named)
    size = open_clip.get_model_config('ViT-L-14-336-quickgelu')['vision_cfg']
    assert size['image_size'] == 336


@pytest.mark.slow
def test_stopped_run_is_resumed_here_and_elsewhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    here, elsewhere = (
        command
        for command in commands_of('recipes.md')
        if command.startswith('python tools/train.py configs/mine.py')
    )
    run_iter = EpochBasedTrainLoop.run_iter

    def press(loop: EpochBasedTrainLoop, *args) -> None:
        if loop.epoch == 1:
            raise KeyboardInterrupt
        run_iter(loop, *args)

    with monkeypatch.context() as patch:
        patch.setattr(EpochBasedTrainLoop, 'run_iter', press)
        with pytest.raises(KeyboardInterrupt):
            call(here.replace(' --resume', ''))
    shutil.copytree('work_dirs/mine', 'copied/mine')
    for command, work_dir in ((here, 'work_dirs/mine'), (elsewhere, 'copied/mine')):
        assert not Path(work_dir, 'epoch_2.pth').exists()
        assert call(command) == 0
    one, other = (read(f'{d}/mine/epoch_2.pth') for d in ('work_dirs', 'copied'))
    assert_same(one['state_dict'], other['state_dict'])


def test_weights_of_a_retrieval_config_are_its_options(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (command,) = (x for x in commands_of('recipes.md') if 'stop_msrvtt.py' in x)
    _, _, path, *options = shlex.split(
        command.replace('open_clip_model.safetensors', WEIGHTS)
    )
    args = train.parse_args(['configs/captioned.py', *options])
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, [])
    assert path == 'configs/stop_msrvtt.py'
    assert cfg.model.text.weights == cfg.model.backbone.clip.weights == WEIGHTS
