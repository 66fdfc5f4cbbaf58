"""Exported towers give what the towers give, for any number of samples."""

import argparse
import json
import resource
import shutil
import signal

import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from pages import code_of
from test_methods import METHODS, name_of
from tiny import TEXT, VIT, still, wild
from tiny_run import write_tiny_retrieval, write_tiny_run
from torch import nn

from mmstop import __version__
from mmstop.apis import VideoCLIP, export_towers
from mmstop.apis.export import _export, describe_towers
from mmstop.registry import MODELS
from mmstop_cli import export

T = 5
VIDEOS = [
    wild(1, T, seed=1),
    still(2, T),
    torch.cat([wild(3, T, seed=2), still(2, T), 1e-3 * wild(1, T)]),
]


class Two(nn.Module):
    """The two towers of a retriever."""

    def __init__(self, backbone, text):
        super().__init__()
        self.backbone, self.text = backbone, text


def load(path):
    """Return the exported graph as a function."""
    if path.suffix == '.pt2':
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert made.name == 'features'
    return lambda x: torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])


@torch.no_grad()
def assert_same(path, tower, inputs):
    run = load(path)
    for x in inputs:
        torch.testing.assert_close(run(x), tower(x), atol=1e-4, rtol=0)


# Without gradients, the others have the graph of one of these, or a part of it.
GRAPHS = (
    'STOPCLIPViT',
    'STOPCLIPViT-figure',
    'STOPCLIPViT-0.3-2',
    "STOPCLIPViT-frame-('merge', 2)",
    'DeepPromptCLIPViT',
    'AdapterCLIPViT',
    'DGLCLIPViT',
    'VoPCLIPViT-True-True',
    "TempMeCLIPViT-('lora', {'rank': 8})",
    'UniPT',
)
# ONNX is made of what .pt2 holds: of the latter, one more graph is enough.
FORMS = [*((name, 'onnx') for name in GRAPHS), ("STOPCLIPViT-2-('merge', 2)", 'pt2')]


@pytest.mark.slow
@pytest.mark.parametrize('name, form', FORMS)
def test_exported_video_tower_equals_it_for_every_batch(name, form, tmp_path):
    tower = {name_of(method): method for method in METHODS}[name].build()
    (path,) = export_towers(Two(tower, None), T, tmp_path, form)
    assert_same(path, tower, [x.contiguous() for x in VIDEOS])


@pytest.mark.slow
def test_an_image_is_exported_too(tmp_path):
    tower = METHODS[0].build()
    (path,) = export_towers(Two(tower, None), 1, tmp_path)
    assert_same(path, tower, [wild(1, 1), wild(3, 1)])


def assert_both_same(video, text, model, tower):
    """Both files of a frozen CLIP give what its towers give."""
    assert_same(video, model, VIDEOS[:1] + VIDEOS[2:])
    texts = ['a red circle', 'moves', 'to the left of a square']
    tokens = tower.tokenizer(texts, context_length=tower.context_length)
    assert_same(text, tower, [tokens, tokens[:1]])
    with torch.no_grad():  # padding is no input that matters
        short = tower(tower.tokenize(texts))
    torch.testing.assert_close(load(text)(tokens), short, atol=1e-4, rtol=0)


def test_both_towers_of_frozen_clip(tmp_path):
    model = Two(MODELS.build(VIT), MODELS.build(TEXT))
    video, text = export_towers(model, T, tmp_path / 'new' / 'folder', 'pt2')
    assert_both_same(video, text, model.backbone, model.text)


@pytest.mark.slow
def test_page_classifies_with_onnxruntime_alone(tmp_path, monkeypatch, capsys):
    """Run the lines of the page on the files of both towers of frozen CLIP."""
    path = write_tiny_run(tmp_path)
    cfg = Config.fromfile(path)
    cfg.model.backbone = cfg.model.backbone.clip
    cfg.test_dataloader.dataset.pipeline[1].clip_len = T
    cfg.dump(path)
    command(path, '--out', tmp_path / 'exported')
    clip = VideoCLIP.from_config(path)
    files = [tmp_path / 'exported' / f'{name}.onnx' for name in ('video', 'text')]
    assert_both_same(*files, clip.model.backbone, clip.text)
    shutil.copy(tmp_path / 'videos' / 'a' / 'green.mp4', tmp_path / 'clip.mp4')
    (lines,) = (code for code in code_of('own_videos.md') if 'onnxruntime' in code)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(lines, {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    (expected,) = clip.classify('clip.mp4')
    assert [name for _, name in printed] == [name for name, _ in expected]
    for (score, _), (_, wanted) in zip(printed, expected):
        assert float(score) == pytest.approx(wanted, abs=0.01)


def test_files_say_what_their_users_need(tmp_path):
    with DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(Config.fromfile(write_tiny_run(tmp_path)).model)
        retriever = MODELS.build(Config.fromfile(write_tiny_retrieval(tmp_path)).model)
    about = describe_towers(model, 4)
    both = dict(mmstop=__version__, classes=['red', 'green', 'blue'], template='{}')
    scale = model.cls_head.text.logit_scale.exp().item()
    both.update(arch='ViT-tiny', temperature=pytest.approx(1 / scale))
    pixels = dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323])
    frames = dict(num_frames=4, size=[32, 32], method='STOPCLIPViT')
    assert about['video'] == {**both, **pixels, **frames}
    tokens = about['text'].pop('class_tokens')
    assert about['text'] == {**both, 'context_length': 16}
    assert [len(row) for row in tokens] == [16] * 3
    short = model.cls_head.text.tokenize(model.cls_head.sentences)
    assert [row[: short.shape[1]] for row in tokens] == short.tolist()
    video, text = describe_towers(retriever, 4).values()
    assert pixels.items() <= video.items() and 'classes' not in video
    assert 'class_tokens' not in text and text['context_length'] == 16
    alone = describe_towers(Two(MODELS.build(VIT), None), 4)
    assert alone['video'].keys() == {'mmstop', 'arch', 'method', *frames}
    assert alone.keys() == {'video'}


@pytest.mark.parametrize('form', [pytest.param('onnx', marks=pytest.mark.slow), 'pt2'])
def test_a_full_disk_leaves_the_old_file(form, tmp_path):
    path = tmp_path / f'video.{form}'
    path.write_bytes(b'old')
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            _export(nn.Linear(200, 200), 'x', torch.ones(2, 200), path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def command(*arguments):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    export.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.slow
@pytest.mark.parametrize('write', [write_tiny_run, write_tiny_retrieval])
def test_command_exports_what_was_trained(write, tmp_path, capsys):
    config = write(tmp_path)
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(Config.fromfile(config).model)
    checkpoint, out = tmp_path / 'trained.pth', tmp_path / 'out'
    saved = {n: p for n, p in model.named_parameters() if p.requires_grad}
    torch.save({'state_dict': saved}, checkpoint)
    command(config, checkpoint, '--out', out, '--format', 'pt2')
    printed = [line.split(':')[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [str(out / 'video.pt2'), str(out / 'text.pt2')]
    assert_same(out / 'video.pt2', model.backbone.eval(), [wild(3, 4)])
    extra = {'metadata.json': ''}
    torch.export.load(out / 'video.pt2', extra_files=extra)
    assert json.loads(extra['metadata.json']) == describe_towers(model, 4)['video']


def test_command_refuses_what_it_cannot_export(tmp_path):
    config, out = write_tiny_run(tmp_path), ['--out', tmp_path / 'out']
    with pytest.raises(ValueError, match='no checkpoint given, but .* are trained'):
        command(config, *out)
    other = tmp_path / 'other.pth'
    torch.save({'state_dict': {'backbone.spatial.x': torch.ones(1)}}, other)
    with pytest.raises(ValueError, match='other.pth does not fit the model of .*tiny'):
        command(config, other, *out)
    cfg = Config.fromfile(config)
    del cfg.test_dataloader.dataset.pipeline[1]
    cfg.dump(tmp_path / 'unsampled.py')
    with pytest.raises(ValueError, match='no step of .* has a clip_len'):
        command(tmp_path / 'unsampled.py', *out)
    assert not (tmp_path / 'out').exists()


def test_other_backbones_and_missing_packages_are_one_clear_error(
    tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match='this Two is a Linear; only towers'):
        export_towers(Two(nn.Linear(1, 1), None), T, tmp_path)
    with pytest.raises(ValueError, match="format='tflite' is unknown"):
        export_towers(Two(MODELS.build(VIT), None), T, tmp_path, 'tflite')
    monkeypatch.setattr('mmstop.apis.export.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'onnx and onnxscript: .*mmstop\[export\]'):
        export_towers(Two(MODELS.build(VIT), None), T, tmp_path)
