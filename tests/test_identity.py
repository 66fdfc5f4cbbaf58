"""A checkpoint knows its model: the CLIP under it, its arguments, its numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from open_clip import factory
from tiny import TEXT, TINY, VIT, wild

from mmstop.apis.model_loading import build_model, fill_in
from mmstop.compat.reader import read
from mmstop.engine.fitting import (
    find_misfits,
    refuse_bad_numbers,
    refuse_other_run,
)
from mmstop.engine.identity import compare_arguments, describe_arguments
from mmstop.errors import ConfigError
from mmstop.registry import MODELS
from mmstop.towers.weights import build_clip, resolve_arch

BIAS = 'backbone.temporal.bank.bias'


@MODELS.register_module('IdentityToy')
class Toy(BaseModel):
    """Any method on inputs that need no files."""

    def __init__(self, backbone: dict, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = MODELS.build(backbone)
        self.scale = scale

    def forward(self, inputs, mode='tensor'):
        features = self.scale * self.backbone(torch.stack(inputs))
        return dict(loss=features.square().mean()) if mode == 'loss' else features


def config(weights=None, toy=None, **stop) -> Config:
    backbone = dict(type='STOPCLIPViT', clip=dict(VIT, weights=weights), **stop)
    model = dict(type='IdentityToy', backbone=backbone, **toy or {})
    return Config(dict(model=model, default_scope='mmengine'))


def start(work_dir, cfg, load_from=None, resume=False, epochs=1, **hook) -> Runner:
    loader = dict(
        batch_size=2,
        dataset=[dict(inputs=video) for video in wild(2, 3)],
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    hook = dict(dict(type='TrainableCheckpointHook', interval=1), **hook)
    return Runner(
        cfg.model,
        str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        default_hooks=dict(checkpoint=hook),
        load_from=load_from and str(load_from),
        resume=resume,
        experiment_name=str(work_dir),
        default_scope='mmengine',
        cfg=cfg,
    )


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Two files with CLIPs of which the video towers differ in one tensor."""
    folder = tmp_path_factory.mktemp('weights')
    state = build_clip(resolve_arch(TINY), None).state_dict()
    torch.save(state, folder / 'a.pt')
    state['visual.proj'] = state['visual.proj'] + 0.1
    torch.save(state, folder / 'b.pt')
    return folder


@pytest.fixture(scope='module')
def trained(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    start(folder, config(str(weights / 'a.pt'))).train()
    return folder / 'epoch_1.pth'


@pytest.fixture(scope='module')
def model():
    return build_model(config())


def fill(cfg, path):
    model = build_model(cfg)
    fill_in(model, path, cfg)
    return model


# --- The CLIP under it ----------------------------------------------------------------


@pytest.mark.parametrize('way', ['load', 'resume', 'fill'])
def test_another_clip_is_refused(way, weights, trained, tmp_path):
    cfg = config(str(weights / 'b.pt'))
    message = (
        r"over another CLIP: .*backbone.clip of weights='\S+a.pt' \(sha256 \w{12}\) "
        r"instead of weights='\S+b.pt' \(\w{12}\)"
    )
    with pytest.raises(ConfigError, match=message):
        if way == 'fill':
            fill(cfg, trained)
        else:
            start(tmp_path, cfg, trained, resume=way == 'resume').train()


def test_the_same_clip_elsewhere_is_the_same(weights, trained, tmp_path, recwarn):
    (tmp_path / 'c.pt').write_bytes((weights / 'a.pt').read_bytes())
    fill(config(str(tmp_path / 'c.pt')), trained)
    assert not [w for w in recwarn if 'checkpoint' in str(w.message)]


def test_a_tuned_clip_is_saved_and_resumed(weights, tmp_path):
    cfg = config(str(weights / 'a.pt'))
    tuned = config(str(weights / 'b.pt'))
    torch.save(dict(state_dict=build_model(tuned).state_dict()), tmp_path / 'tuned.pth')
    start(tmp_path, cfg, tmp_path / 'tuned.pth', strict=False).train()
    saved = read(tmp_path / 'epoch_1.pth')
    frozen = [name for name in saved['state_dict'] if '.clip.' in name]
    assert frozen == ['backbone.clip.visual.proj']  # and no other differs
    resumed = start(tmp_path, cfg, resume=True, epochs=2)
    resumed.train()
    name = 'backbone.clip.visual.proj'
    for model in (resumed.model, fill(cfg, tmp_path / 'epoch_2.pth')):
        own = model.state_dict()[name]
        assert torch.equal(own, saved['state_dict'][name])


@pytest.mark.slow
def test_go_on_with_another_clip_if_told(weights, trained, tmp_path):
    cfg = config(str(weights / 'b.pt'))
    start(tmp_path, cfg, trained, strict=False).train()
    cfg.default_hooks = dict(checkpoint=dict(strict=False))
    fill(cfg, trained)


# --- Its arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(alpha=0.5), 'backbone.alpha=0.4 instead of 0.5'),
        (dict(beta=2.0), 'backbone.beta=4.0 instead of 2.0'),
        (dict(attention='frame'), "attention='joint' instead of 'frame'"),
        (dict(selection='hard'), "selection='straight_through' instead of 'hard'"),
        (dict(num_spatial=4), 'num_spatial=6 instead of 4'),
        (dict(toy=dict(scale=2.0)), 'scale=1.0 instead of 2.0'),
    ],
)
def test_other_arguments_are_told(changed, message, trained):
    (found,) = compare_arguments(config(**changed), read(trained)['meta']['model'])
    assert message in found


def test_other_arguments_are_refused(weights, trained):
    cfg = config(str(weights / 'a.pt'), attention='frame')
    with pytest.raises(ConfigError, match="arguments: .*'joint' instead of 'frame'"):
        fill(cfg, trained)


@pytest.mark.slow
def test_other_arguments_are_not_resumed(weights, trained, tmp_path):
    cfg = config(str(weights / 'a.pt'), alpha=0.5)
    with pytest.raises(ConfigError, match=r'alpha=0.4 instead of 0.5.*strict=False'):
        start(tmp_path, cfg, trained, resume=True, epochs=2).train()
    start(tmp_path, cfg, trained, resume=True, epochs=2, strict=False).train()


def test_arguments_inside_a_tower_count(weights):
    stored = describe_arguments(config())
    merged = config()
    merged.model.backbone.clip['merge'] = 2
    assert compare_arguments(merged, stored) == ['backbone.clip.merge=0 instead of 2']
    neutral = config('elsewhere.pt')
    neutral.model.backbone.clip.update(checkpoint=True, trainable='bias$')
    neutral.model.backbone.clip.arch = 'ViT-tiny'  # the same, by its name
    assert compare_arguments(neutral, stored) == []


def test_an_architecture_is_what_its_file_says(tmp_path, monkeypatch):
    """Of the same sizes, with another activation: no tensor would tell."""
    for known in ('_MODEL_CONFIG_PATHS', '_MODEL_CONFIGS'):  # is known here only
        monkeypatch.setattr(factory, known, getattr(factory, known).copy())
    stored = describe_arguments(config())
    arch = json.loads(Path(TINY).read_text())
    arch['quick_gelu'] = not arch.get('quick_gelu', False)
    (tmp_path / 'other.json').write_text(json.dumps(arch))
    other = config()
    other.model.backbone.clip.arch = str(tmp_path / 'other.json')
    (found,) = compare_arguments(other, stored)
    assert found.startswith('backbone.clip.arch.quick_gelu=')


def test_defaults_are_stored_with_the_rest():
    stored = describe_arguments(config())
    assert stored['backbone.alpha'] == 0.4  # which the config does not say
    stored['backbone.alpha'] = 0.3  # as if the default were changed since
    assert compare_arguments(config(), stored) == ['backbone.alpha=0.3 instead of 0.4']
    assert compare_arguments(config(alpha=0.3), stored) == []
    del stored['backbone.alpha']  # as if the argument were new
    assert compare_arguments(config(), stored) == []
    found = compare_arguments(config(alpha=0.5), stored)
    assert found == ['backbone.alpha=not there instead of 0.5']


def test_heads_and_other_models_of_the_same_backbone():
    recognizer, retriever = config(), config()
    head = dict(type='CLIPTextHead', text=TEXT, classes=['a', 'b'], template='{}')
    recognizer.model = dict(
        type='Recognizer3D', backbone=recognizer.model.backbone, cls_head=head
    )
    stored = describe_arguments(recognizer)
    assert stored['cls_head.template'] == '{}'
    recognizer.model.cls_head.template = 'a video of {}'
    recognizer.model.cls_head.average_clips = 'score'
    message = "cls_head.template='{}' instead of 'a video of {}'"
    assert compare_arguments(recognizer, stored) == [message]
    retriever.model = dict(
        type='CLIPRetriever', backbone=retriever.model.backbone, text=TEXT
    )
    assert compare_arguments(retriever, stored) == []
    retriever.model.backbone.alpha = 0.5
    assert len(compare_arguments(retriever, stored)) == 1
    recognizer.model.backbone = dict(type='CLIPViT', arch=TINY, weights=None)
    message = "backbone.type='STOPCLIPViT' instead of 'CLIPViT'"
    assert message in compare_arguments(recognizer, stored)


# --- Old ones, and bad ones -----------------------------------------------------------


def test_an_old_checkpoint_loads_with_one_warning(weights, trained, tmp_path):
    content, cfg = read(trained), config(str(weights / 'a.pt'))
    for name in ('frozen', 'model', 'optimizers'):
        del content['meta'][name]
    path = tmp_path / 'old.pth'
    torch.save(content, path)
    with pytest.warns(
        UserWarning, match='old.pth does not say over which CLIP'
    ) as seen:
        fill(cfg, path)
    assert len([w for w in seen if 'old.pth' in str(w.message)]) == 1
    start(tmp_path, cfg, path, resume=True, epochs=2).train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('old.pth does not say over which CLIP') == 1
    assert {'frozen', 'model'} <= read(tmp_path / 'epoch_2.pth')['meta'].keys()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda x: x * float('nan'), f'NaN or infinite numbers in {BIAS}'),
        (lambda x: x.double() * 1e300, f'NaN or infinite numbers in {BIAS}'),
        (lambda x: x.to(torch.int8), rf'{BIAS} as integers \(torch.int8\), expected'),
        (lambda x: x > 0, rf'{BIAS} as truth values \(torch.bool\), expected real'),
        (lambda x: x.to(torch.complex64), f'{BIAS} as complex numbers .*float32'),
        (lambda x: x.to_sparse(), f'{BIAS} as a sparse or quantised tensor'),
    ],
    ids=['nan', 'overflow', 'int8', 'bool', 'complex', 'sparse'],
)
def test_bad_numbers(spoil, message, model, trained):
    content = read(trained)
    content['state_dict'][BIAS] = spoil(content['state_dict'][BIAS] + 1)
    with pytest.raises(ConfigError, match=f'bad.pth holds {message}'):
        refuse_bad_numbers(model, content, 'bad.pth')


def test_bad_numbers_are_refused_whatever_is_asked(weights, trained, tmp_path):
    content = read(trained)
    content['state_dict'][BIAS][0] = float('inf')
    torch.save(content, tmp_path / 'bad.pth')
    cfg = config(str(weights / 'a.pt'))
    with pytest.raises(ConfigError, match='bad.pth holds NaN'):
        start(tmp_path, cfg, tmp_path / 'bad.pth', strict=False).train()
    cfg.default_hooks = dict(checkpoint=dict(strict=False))
    with pytest.raises(ConfigError, match='bad.pth holds NaN'):
        fill(cfg, tmp_path / 'bad.pth')


@pytest.mark.parametrize('spoil', ['nan', 'int8'])
def test_bad_clip_weights(spoil, weights, tmp_path):
    state = torch.load(weights / 'a.pt')
    proj = state['visual.proj']
    bad = proj * float('nan') if spoil == 'nan' else proj.to(torch.int8)
    torch.save(dict(state, **{'visual.proj': bad}), tmp_path / 'bad.pt')
    message = 'bad.pt holds (NaN or infinite numbers in|visual.proj as torch.int8)'
    with pytest.raises(ConfigError, match=message):
        build_clip(resolve_arch(TINY), str(tmp_path / 'bad.pt'))


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (
            lambda c: c['meta'].pop('epoch'),
            'its meta has epoch=None, expected',
        ),
        (lambda c: c['meta'].update(iter='many'), "its meta has iter='many'"),
        (lambda c: c['meta'].update(seed='x'), "its meta has seed='x'"),
        (lambda c: c.update(message_hub={}), 'its message_hub has no log_scalars'),
        (
            lambda c: c['message_hub']['runtime_info'].update(best_score='x'),
            "its best_score is 'x', expected a number",
        ),
        (lambda c: c.update(optimizer=[]), 'its optimizer has no parameter groups'),
        (
            lambda c: c['optimizer']['param_groups'][0]['params'].pop(),
            r'its optimizer has groups of \[\d+\] parameters',
        ),
    ],
)
def test_what_is_no_run_is_not_resumed(spoil, message, model, trained):
    content = read(trained)
    optimizer = torch.optim.AdamW(model.parameters())
    runner = SimpleNamespace(optim_wrapper=OptimWrapper(optimizer))
    refuse_other_run(runner, content, 'odd.pth')
    spoil(content)
    with pytest.raises(ConfigError, match=f'odd.pth cannot be resumed: {message}'):
        refuse_other_run(runner, content, 'odd.pth')


@pytest.mark.parametrize('is_old', [False, True])
@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'several'])
def test_another_kind_of_optimizer_is_not_resumed(kind, is_old, model, trained):
    content = read(trained)
    parameters = list(model.parameters())
    if kind == 'several':
        one = OptimWrapper(torch.optim.AdamW(parameters))
        wrapper = OptimWrapperDict(video=one, text=one)
        message = r"holds the optimizers \[.*\], this config has \['video', 'text'\]"
    else:
        wrapper = OptimWrapper(getattr(torch.optim, kind)(parameters, lr=0.1))
        message = f'its optimizer was AdamW, this config has {kind}'
    if is_old:
        del content['meta']['optimizers']
        message = message.replace('AdamW', r'one with .*betas, .*')
    runner = SimpleNamespace(optim_wrapper=wrapper)
    if is_old and kind == 'Adam':  # whose options are the same
        refuse_other_run(runner, content, 'x.pth')
        return
    with pytest.raises(ConfigError, match=f'x.pth cannot be resumed: .*{message}'):
        refuse_other_run(runner, content, 'x.pth')


def test_notes_that_are_none_of_ours_are_no_notes(model, trained):
    content = read(trained)
    content['meta'].update(classes={'head': 3}, frozen=[1], model='x')
    assert find_misfits(model, content, config()) == ''


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(ConfigError, match='list.pth holds a list, expected a dict'):
        fill(config(), tmp_path / 'list.pth')
