"""The towers against open_clip's own forward, and every error on the way to weights."""

import importlib
import json
import os
import pickle
import socket
import time
import warnings
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from mmengine.registry import DefaultScope
from open_clip.pretrained import get_pretrained_cfg
from own_configs import read
from tiny import TEXT, TINY, VIT, wild
from torch import nn

from mmstop.errors import ConfigError
from mmstop.registry import MODELS
from mmstop.towers.download import download
from mmstop.towers.weights import build_clip

B32 = 'ViT-B-32-quickgelu'


@pytest.fixture(scope='module')
def clip():
    """open_clip's tiny model with values unlike those of a fresh tower."""
    open_clip.add_model_config(TINY)
    torch.manual_seed(1)
    return open_clip.CLIP(**open_clip.get_model_config('ViT-tiny')).eval()


@pytest.fixture
def weights(clip, tmp_path):
    path = tmp_path / 'clip.pt'
    torch.save(clip.state_dict(), path)
    return str(path)


def mean_pooled(visual, video):
    frames = [
        F.normalize(visual(video[:, :, t]), dim=-1) for t in range(video.shape[2])
    ]
    return torch.stack(frames).mean(0)


@torch.no_grad()
@pytest.mark.parametrize('T', [1, 4])
def test_video_tower_is_open_clip_with_mean_pooling(clip, weights, T):
    tower = MODELS.build(dict(VIT, weights=weights))
    video = wild(2, T)
    torch.testing.assert_close(
        tower(video), mean_pooled(clip.visual, video), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_full_size_video_tower_is_open_clip():
    clip = build_clip(B32, None)
    video = torch.randn(1, 3, 2, 224, 224)
    tower = MODELS.build(dict(type='CLIPViT', arch=B32, weights=None))
    assert (tower.width, tower.depth, tower.out_dim, tower.grid) == (
        768,
        12,
        512,
        (7, 7),
    )
    torch.testing.assert_close(
        tower(video), mean_pooled(clip.visual, video), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_text_tower_is_open_clip_at_any_length(clip, weights):
    tower = MODELS.build(dict(TEXT, weights=weights))
    texts = ['a dog', 'a red circle moving to the left']
    tokens = tower.tokenize(texts)
    assert tokens.shape == (2, 9)  # start, seven words, end: not 16
    full = open_clip.get_tokenizer('ViT-tiny')(texts)
    torch.testing.assert_close(tower(tokens), clip.encode_text(full), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match='has 20 tokens, ViT-tiny has room for 14'):
        tower.tokenize(['dog ' * 20])


@torch.no_grad()
def test_attention_takes_contexts_and_masks(clip, weights):
    tower = MODELS.build(dict(VIT, weights=weights))
    x = torch.randn(2, 3, 5, 64)
    block = clip.visual.transformer.resblocks[1]
    whole = block.attention(block.ln_1(x.flatten(0, 1))).unflatten(0, (2, 3))
    torch.testing.assert_close(tower.attend(1, x), whole)
    hidden = torch.cat([x, torch.randn(2, 3, 4, 64)], dim=2)
    mask = torch.tensor([True] * 5 + [False] * 4)
    masks = {
        'every query': mask.expand(5, 9),
        'each sequence': mask.expand(2, 3, 1, 9),
        'added': torch.zeros(5, 9).masked_fill(~mask, float('-inf')),
    }
    for name, given in masks.items():
        out = tower.attend(1, x, context=hidden, mask=given)
        torch.testing.assert_close(out, whole, msg=name)
    first = tower.attend(1, x[..., :1, :], context=x)
    torch.testing.assert_close(first, whole[..., :1, :])


@torch.no_grad()
def test_cls_attention_is_a_distribution_over_patches(clip, weights):
    tower = MODELS.build(dict(VIT, weights=weights))
    x = tower.embed(wild(2, 3))
    attention = tower.cls_attention(0, x)
    assert attention.shape == (2, 3, 16)
    block = clip.visual.transformer.resblocks[0]
    tokens = block.ln_1(x.flatten(0, 1))
    _, oracle = block.attn(tokens[:, :1], tokens[:, 1:], tokens[:, 1:])
    torch.testing.assert_close(attention.flatten(0, 1), oracle[:, 0])


def test_everything_is_frozen_but_what_the_regex_names():
    assert not any(p.requires_grad for p in MODELS.build(VIT).parameters())
    tower = MODELS.build(dict(VIT, trainable=r'bias$'))
    for name, parameter in tower.named_parameters():
        assert parameter.requires_grad == name.endswith('bias')
    with pytest.raises(
        ValueError, match=r"'nothing' matches no parameter .* look like"
    ):
        MODELS.build(dict(VIT, trainable='nothing'))


def test_clip4clip_trains_as_many_parameters_as_its_paper_says():
    regex = read('clip4clip_msrvtt').trainable
    with torch.device('meta'):  # sizes without the memory
        towers = [
            MODELS.build(dict(type=tower, arch=B32, weights=None, trainable=regex))
            for tower in ('CLIPViT', 'CLIPText')
        ]
    trained = sum(p.numel() for t in towers for p in t.parameters() if p.requires_grad)
    assert trained == 123_540_993


def test_random_weights_are_the_same_everywhere():
    state = torch.random.get_rng_state()
    first, second = MODELS.build(VIT), MODELS.build(VIT)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_weights_files_of_every_kind(clip, weights, tmp_path):
    from safetensors.torch import save_file

    safe = tmp_path / 'clip.safetensors'
    save_file(clip.state_dict(), safe)
    wrapped = tmp_path / 'training.pt'  # open_clip's training checkpoints
    parallel = {f'module.{name}': value for name, value in clip.state_dict().items()}
    torch.save({'epoch': 1, 'state_dict': parallel}, wrapped)
    archive = openai_archive(clip, tmp_path / 'openai.pt')
    for path in (weights, safe, wrapped, archive):
        tower = MODELS.build(dict(VIT, weights=str(path)))
        for name, value in clip.visual.state_dict().items():
            expected = value.half().float() if path is archive else value
            assert torch.equal(tower.visual.state_dict()[name], expected), (path, name)


def openai_archive(clip, path):
    """Write a TorchScript archive as OpenAI published them: halves and three extras."""
    root = nn.Module()
    for name, value in clip.state_dict().items():
        *parents, leaf = name.split('.')
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_parameter(leaf, nn.Parameter(value.half(), False))
    for name, value in (
        ('input_resolution', 32),
        ('context_length', 16),
        ('vocab_size', 49408),
    ):
        root.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(root).save(str(path))
    return path


def test_an_archive_is_read_as_data_only(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path / "ran"}',)

    torchscript, plain = tmp_path / 'torchscript.pt', tmp_path / 'plain.pt'
    with zipfile.ZipFile(torchscript, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.dumps(Payload()))
        archive.writestr('archive/constants.pkl', b'')
    torch.save(Payload(), plain)
    for path in (torchscript, plain):
        with pytest.raises(ValueError, match=rf'{path} cannot be read .*system'):
            MODELS.build(dict(VIT, weights=str(path)))
    assert not (tmp_path / 'ran').exists()


def test_files_that_hold_no_clip(tmp_path):
    page = tmp_path / 'page.pt'
    page.write_text('<!DOCTYPE html>')
    with pytest.raises(ValueError, match='page.pt cannot be read as CLIP weights'):
        MODELS.build(dict(VIT, weights=str(page)))
    numbers = tmp_path / 'numbers.pt'
    for content in ({'epoch': 3}, torch.zeros(3)):
        torch.save(content, numbers)
        with pytest.raises(ValueError, match='numbers.pt holds something other than'):
            MODELS.build(dict(VIT, weights=str(numbers)))
    other = tmp_path / 'other.pt'
    torch.save({'weight': torch.zeros(3)}, other)
    with pytest.raises(ValueError, match='It holds no CLIP with a ViT'):
        MODELS.build(dict(VIT, weights=str(other)))


def test_weights_of_another_architecture_or_image_size(weights, tmp_path):
    with pytest.raises(ValueError, match=r'of width 64, 3 layers, .* arch=ViT-tiny'):
        MODELS.build(dict(type='CLIPViT', arch=B32, weights=weights))
    config = json.loads(Path(TINY).read_text())
    config['vision_cfg']['image_size'] = 48
    larger = tmp_path / 'ViT-tiny-48.json'
    larger.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r'positional_embedding is \(17, 64\)'):
        MODELS.build(dict(type='CLIPViT', arch=str(larger), weights=weights))
    with pytest.raises(ValueError, match=r'frames of \(48, 48\) .* for \(32, 32\)'):
        MODELS.build(VIT)(torch.zeros(1, 3, 2, 48, 48))
    with pytest.raises(ValueError, match=r'frames of \(48, 48\) .* for \(32, 32\)'):
        MODELS.build(VIT)(torch.zeros(1, 3, 48, 48))
    for shape in ((3, 32, 32), (1, 2, 32, 32), (1, 3, 0, 32, 32), (1, 1, 3, 4, 32, 32)):
        with pytest.raises(
            ValueError, match=r'expected \(B, 3, T, H, W\) with T >= 1, '
        ):
            MODELS.build(VIT)(torch.zeros(shape))


def test_quickgelu_mismatch_is_an_error(clip, tmp_path):
    with pytest.raises(ValueError, match="set arch='ViT-B-32-quickgelu'"):
        MODELS.build(dict(type='CLIPViT', arch='ViT-B-32', weights='openai'))
    config = json.loads(Path(TINY).read_text())
    config['quick_gelu'] = False
    gelu = tmp_path / 'ViT-tiny-gelu.json'
    gelu.write_text(json.dumps(config))
    archive = openai_archive(clip, tmp_path / 'openai.pt')
    with pytest.raises(ValueError, match=r'openai.pt was trained with QuickGELU'):
        MODELS.build(dict(type='CLIPViT', arch=str(gelu), weights=str(archive)))


def test_names_that_lead_nowhere(monkeypatch):
    with pytest.raises(ValueError, match='did you mean ViT-B-32-quickgelu'):
        MODELS.build(dict(type='CLIPViT', arch='ViT-B-32-quickgel', weights=None))
    with pytest.raises(ValueError, match='not a CLIP with plain transformers'):
        MODELS.build(dict(type='CLIPViT', arch='ViT-B-16-SigLIP', weights=None))
    with pytest.raises(ValueError, match='a ResNet'):
        MODELS.build(dict(type='CLIPViT', arch='RN50', weights=None))
    with pytest.raises(FileNotFoundError, match="tags are .*'openai'"):
        MODELS.build(dict(type='CLIPViT', arch=B32, weights='opnai'))
    with pytest.raises(FileNotFoundError, match='this package has weights for'):
        MODELS.build(dict(type='CLIPViT', arch=B32, weights='mmstop'))

    def no_network(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(open_clip, 'download_pretrained', no_network)
    monkeypatch.setattr('mmstop.towers.download.unreachable', lambda url: None)
    with pytest.raises(ValueError, match='no network.* give its path as weights='):
        MODELS.build(dict(type='CLIPViT', arch=B32, weights='openai'))


def test_without_a_network_nothing_is_tried_twice(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise OSError('Name or service not known')

    def sleep(seconds):
        raise AssertionError('it would be tried again')

    monkeypatch.setattr(socket, 'create_connection', fail)
    monkeypatch.setattr(time, 'sleep', sleep)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    message = (
        'huggingface.co cannot be reached: Name or service not known.*fetch the '
        'weights from https://huggingface.co/timm/.*--weights FILE'
    )
    tag = get_pretrained_cfg(B32, 'openai')
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ConfigError, match=message):
        download(B32, 'openai', tag)
    assert constants.HF_HUB_OFFLINE == before
    # What was fetched before is found all the same.
    snapshot = tmp_path / f'models--{tag["hf_hub"].strip("/").replace("/", "--")}'
    snapshot.joinpath('refs').mkdir(parents=True)
    snapshot.joinpath('refs', 'main').write_text('abc')
    file = snapshot / 'snapshots' / 'abc' / 'open_clip_model.safetensors'
    file.parent.mkdir(parents=True)
    file.touch()
    assert download(B32, 'openai', tag) == file


@torch.no_grad()
@pytest.mark.parametrize('scope', ['mmaction', 'mmpretrain', 'mmengine'])
@pytest.mark.parametrize('prefix', ['', 'mmstop.'])
def test_parts_resolve_in_every_scope(scope, prefix):
    registry = importlib.import_module(f'{scope}.registry').MODELS
    with DefaultScope.overwrite_default_scope(scope):
        tower = registry.build(dict(type=f'{prefix}STOPCLIPViT', clip=VIT))
    assert tower(wild(1, 2)).shape == (1, 32)
