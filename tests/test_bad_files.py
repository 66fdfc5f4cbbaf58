"""Checkpoints and weights that are no such thing: one line, status 2, nothing run."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_tools import test as test_tool
from test_tools import train as train_tool
from tiny_run import write_tiny_retrieval, write_tiny_run

from mmstop.errors import ConfigError
from mmstop.registry import HOOKS, MODELS, TRANSFORMS


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp('bad'))


def write_bad_file(kind: str, path: Path) -> None:
    if kind == 'folder':
        path.mkdir()
    elif kind == 'payload':
        torch.save({'state_dict': Payload(path.parent / 'ran')}, path)
    elif kind == 'truncated':
        torch.save({'state_dict': {'weight': torch.randn(50, 50)}}, path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.write_bytes(b'<!DOCTYPE html>' if kind == 'page' else b'')


KINDS = {
    'folder': 'is a folder; name a file in it',
    'payload': r'asks for posix\.system\. .* nothing in it is run',
    'truncated': 'cannot be read: .* copy, download or save it again',
    'page': "is not a checkpoint, it starts with '<!DOCTYPE html>'",
    'empty': 'is empty. Expected a whole file',
}
WAYS = {
    'test': (test_tool, lambda path: [path]),
    'resume': (train_tool, lambda path: ['--resume', path]),
    'load_from': (train_tool, lambda path: ['--cfg-options', f'load_from={path}']),
}


def assert_one_line(tool, arguments, message, capfd):
    assert tool.main([str(argument) for argument in arguments]) == 2
    (line,) = (x for x in capfd.readouterr().err.splitlines() if 'error: ' in x)
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(line)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', KINDS)
def test_bad_checkpoint(kind, way, config, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr('mmengine.runner.Runner.from_cfg', None)  # is not reached
    path = tmp_path / 'x.pth'
    write_bad_file(kind, path)
    tool, arguments = WAYS[way]
    message = rf"^error: checkpoint '?{path}'? {KINDS[kind]}"
    assert_one_line(tool, [config, *arguments(path)], message, capfd)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('kind', ['payload', 'truncated', 'page', 'empty', 'header'])
def test_bad_weights(kind, config, tmp_path, capfd):
    path = tmp_path / ('x.safetensors' if kind == 'header' else 'x.pt')
    write_bad_file(kind, path)
    if kind == 'header':
        path.write_bytes(b'\xff' * 100)
    options = ['--cfg-options', f'model.backbone.clip.weights={path}']
    message = rf'^error: .*{path} cannot be read as CLIP weights'
    work_dir = ['--work-dir', tmp_path / 'work']
    assert_one_line(train_tool, [config, *work_dir, *options], message, capfd)
    assert not (tmp_path / 'ran').exists()


def test_weights_alone_are_not_resumed(config, tmp_path, capfd):
    path = tmp_path / 'x.pth'
    torch.save({'state_dict': {}}, path)
    message = 'holds weights only, no run to resume; .* load_from='
    assert_one_line(train_tool, [config, '--resume', path], message, capfd)
    torch.save([torch.zeros(3)], path)
    assert_one_line(test_tool, [config, path], 'holds a list, expected a dict', capfd)


def test_missing_query_bank(tmp_path, capfd):
    config = write_tiny_retrieval(tmp_path)
    cfg = Config.fromfile(config)
    cfg.model.backbone = cfg.model.backbone.clip  # so that no checkpoint is needed
    cfg.dump(config)
    work_dir = ['--work-dir', tmp_path / 'work']
    bank = ['--cfg-options', f'test_evaluator.query_bank={tmp_path}/bank.npz']
    message = r"^error: .*query_bank='\S+/bank.npz': there is no such file"
    assert_one_line(test_tool, [config, *work_dir, *bank], message, capfd)


def test_old_files_are_read_too(config, tmp_path):
    path = tmp_path / 'old.pth'
    content = {'state_dict': {'weight': torch.ones(3)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    arguments = test_tool.parse_args([str(config), str(path)])
    assert test_tool.read_config(arguments).load_from == str(path)


def test_last_checkpoint_is_read_before_it_is_resumed(config, tmp_path, capfd):
    write_bad_file('truncated', tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    arguments = [config, '--resume', '--work-dir', tmp_path]
    assert_one_line(train_tool, arguments, 'epoch_1.pth cannot be read', capfd)


def test_checkpoint_of_other_classes_or_merging(config, tmp_path, capfd):
    """No shape tells of them: the text head makes scores for any classes."""
    work_dir = ['--work-dir', tmp_path]
    arguments = [config, *work_dir, '--cfg-options', 'train_cfg.max_epochs=1']
    assert train_tool.main([str(argument) for argument in arguments]) == 0
    classes = 'model.cls_head.classes=red,green,blue,black,white'
    arguments = [config, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / 'test']
    arguments += ['--cfg-options', classes]
    message = r"trained on other classes: .*3 in cls_head .* instead of 5 .*'white'"
    assert_one_line(test_tool, arguments, message, capfd)
    for option in ('strict=False', 'other_classes=True'):
        loose = [*arguments, f'default_hooks.checkpoint.{option}']
        assert test_tool.main([str(argument) for argument in loose]) == 0
    message = r'does not fit .*: it was trained with other arguments: .*alpha=0.4'
    assert_one_line(test_tool, [*loose, 'model.backbone.alpha=0.5'], message, capfd)

    merging = [*arguments[:-1], 'model.backbone.clip.merge=2']
    message = r'clip.merge=0 instead of 2.*merge otherwise, .*\.other_merging=True'
    assert_one_line(test_tool, merging, message, capfd)
    loose = [*merging, 'default_hooks.checkpoint.other_merging=True']
    assert test_tool.main([str(argument) for argument in loose]) == 0
    message = r'other arguments: \[.*alpha=0.4 instead of 0.5.*strict=False'
    assert_one_line(test_tool, [*loose, 'model.backbone.alpha=0.5'], message, capfd)


def test_a_folder_that_cannot_be_written(config, capfd):
    message = "work_dir='/proc/none' cannot be written: .*; choose another with --work"
    assert_one_line(train_tool, [config, '--work-dir', '/proc/none'], message, capfd)


def test_deterministic_is_set_before_cuda_starts(config, tmp_path, monkeypatch):
    name, arguments = 'CUBLAS_WORKSPACE_CONFIG', [str(config), '--work-dir']
    monkeypatch.setenv(name, '')  # to be restored
    monkeypatch.delenv(name)
    arguments.append(str(tmp_path))
    train_tool.read_config(train_tool.parse_args(arguments))
    assert name not in os.environ
    train_tool.read_config(train_tool.parse_args([*arguments, '--deterministic']))
    assert os.environ[name] == ':4096:8'
    assert not torch.cuda.is_initialized()


STOP = dict(type='STOPCLIPViT')
VIT = dict(type='CLIPViT', arch='ViT-B-32', weights=None)
HEAD = dict(type='CLIPTextHead', text=dict(VIT, type='CLIPText'))


@pytest.mark.parametrize(
    'config, message',
    [
        (dict(STOP, alpha='0.4'), r"alpha='0.4' .* str, expected float; set alpha=0.4"),
        (dict(STOP, num_spatial=6.0), r'6.0 .* expected int; set num_spatial=6$'),
        (dict(STOP, temporal_scale=True), 'temporal_scale=True is of type bool'),
        (dict(STOP, beta=float('inf')), r'beta=inf is outside'),
        (dict(STOP, clip='CLIPViT'), "clip='CLIPViT' is of type str, expected dict"),
        (dict(VIT, merge='4'), "merge='4' .* expected int; set merge=4"),
        (dict(VIT, trainable=True), r'trainable=True is .* expected Optional\[str\]'),
        (dict(HEAD, classes=[1, 2]), r'classes=\[1, 2\] .* expected .*Sequence\[str\]'),
        (dict(HEAD, classes=3), 'classes=3 is of type int'),
        (dict(type='DeepPromptCLIPViT', num_prompts=2.5), r'num_prompts=2.5 .* int$'),
        (
            dict(type='CLIPRetriever', backbone=VIT, text=[], data_preprocessor={}),
            r'text=\[\] is of type list, expected dict',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value['type'],
)
def test_values_of_other_types(config, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config)


def test_types_of_transforms_and_hooks():
    with pytest.raises(ConfigError, match="max_tokens='32' .* set max_tokens=32"):
        TRANSFORMS.build(dict(type='CaptionTokenize', max_tokens='32'))
    with pytest.raises(ConfigError, match="max_pixels='1' .* set max_pixels=1"):
        TRANSFORMS.build(dict(type='CheckedDecordInit', max_pixels='1'))
    with pytest.raises(ConfigError, match='max_pixels=-1, expected at least 1'):
        TRANSFORMS.build(dict(type='CheckedDecordInit', max_pixels=-1))
    with pytest.raises(ConfigError, match="max_bad='1%' is of type str"):
        HOOKS.build(dict(type='BadVideoHook', max_bad='1%'))
