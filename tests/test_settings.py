"""One setting for what a config holds in several places, and parts that agree."""

import gc
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from tiny import TEXT, VIT
from tiny_run import ROOT, tiny_config

from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.config_settings import output_size
from mmstop.engine import ModelInfoHook
from mmstop.errors import ConfigError
from mmstop.registry import MODELS, TRANSFORMS

SSV2 = str(ROOT / 'configs' / 'stop_ssv2.py')
MSRVTT = str(ROOT / 'configs' / 'stop_msrvtt.py')
CONFIGS = [SSV2, MSRVTT]
OTHER = 'ViT-B-16-quickgelu'  # of the same width as ViT-B-32-quickgelu
LARGE = 'ViT-L-14-336-quickgelu'
CLIP = 'model.backbone.clip'


def read(path, **options):
    """Read a config as a tool does, with options that may name a place."""
    cfg = load_config(str(path), {k.replace('__', '.'): options[k] for k in options})
    check_config(cfg, [])
    return cfg


def pipelines(cfg):
    splits = ('train', 'val', 'test')
    return [cfg[f'{split}_dataloader'].dataset.pipeline for split in splits]


def values(cfg, key):
    return [step[key] for steps in pipelines(cfg) for step in steps if key in step]


def text(cfg):
    return cfg.model.get('text') or cfg.model.cls_head.text


def write(path, *lines):
    path.write_text('\n'.join(lines) + '\n')
    return path


# --- One setting --------------------------------------------------------------------


@pytest.mark.parametrize('path', CONFIGS)
def test_frames_are_set_for_all_pipelines(path):
    cfg = read(path, num_frames=8)
    assert values(cfg, 'clip_len') == [8] * 3
    assert cfg.num_frames == 8
    if path == SSV2:  # which MMAction2's inference_recognizer reads
        assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline
    one = read(path, num_frames=8, test_dataloader__dataset__pipeline__1__clip_len=16)
    assert values(one, 'clip_len') == [8, 8, 16]  # the more exact option wins


@pytest.mark.parametrize('path', CONFIGS)
def test_a_clip_is_set_for_both_towers(path, tmp_path):
    weights = tmp_path / 'clip.pt'
    weights.touch()
    cfg = read(path, arch=OTHER, weights=str(weights))
    for tower in (cfg.model.backbone.clip, text(cfg)):
        assert (tower.arch, tower.weights) == (OTHER, str(weights))
    assert set(values(cfg, 'arch')) == ({OTHER} if path == MSRVTT else set())


def test_image_size_is_set_with_all_that_is_made_for_it():
    cfg = read(SSV2, arch=LARGE, image_size=336)
    assert values(cfg, 'short_side') == [384] * 3
    assert values(cfg, 'crop_size') == [336] * 2
    assert values(cfg, 'scale') == [(-1, 384), (336, 336)] + [(-1, 384)] * 2
    cfg = read(MSRVTT, arch=LARGE, image_size=336)
    for key, size in (('short_side', 336), ('scale', (-1, 336)), ('crop_size', 336)):
        assert values(cfg, key) == [size] * 3


def test_tokens_are_set_for_all_pipelines():
    assert values(read(MSRVTT, max_tokens=77), 'max_tokens') == [77] * 3


def test_a_config_that_a_run_wrote_has_the_settings_too(tmp_path):
    load_config(MSRVTT).dump(tmp_path / 'dumped.py')
    assert values(read(tmp_path / 'dumped.py', num_frames=8), 'clip_len') == [8] * 3
    option = 'test_dataloader.dataset.pipeline.1.clip_len'
    load_config(MSRVTT, {'num_frames': 8, option: 16}).dump(tmp_path / 'other.py')
    assert values(read(tmp_path / 'other.py'), 'clip_len') == [8, 8, 16]


def test_a_config_states_a_setting_in_one_line(tmp_path):
    lines = [f"arch = '{LARGE}'", 'image_size = 336', 'num_frames = 8']
    first = write(tmp_path / 'first.py', f'_base_ = {SSV2!r}', *lines)
    for path in (first, write(tmp_path / 'second.py', "_base_ = 'first.py'")):
        cfg = read(path)
        assert values(cfg, 'clip_len') == [8] * 3
        assert values(cfg, 'crop_size') == [336] * 2
        assert cfg.model.backbone.clip.arch == text(cfg).arch == LARGE
    third = write(tmp_path / 'third.py', "_base_ = 'first.py'", 'num_frames = 4')
    assert values(read(third), 'clip_len') == [4] * 3
    assert values(read(third, num_frames=2), 'clip_len') == [2] * 3


def test_a_variable_that_a_config_uses_itself_is_left_alone(tmp_path):
    path = write(
        tmp_path / 'uses.py',
        f'_base_ = {SSV2!r}',
        'num_frames = 32',
        'train_pipeline = _base_.train_pipeline',
        "train_pipeline[1]['clip_len'] = num_frames // 2",
        'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))',
    )
    assert values(read(path), 'clip_len') == [16, 12, 12]
    inherits = write(tmp_path / 'inherits.py', "_base_ = 'uses.py'")
    assert values(read(inherits), 'clip_len') == [16, 12, 12]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(num_frames=0), 'num_frames=0, expected a whole number of at least 1'),
        (dict(num_frames='8 '), "num_frames='8 ', expected a whole number"),
        (dict(max_tokens=16), 'max_tokens=16 would change nothing: .* no CaptionTok'),
        (dict(arch='ViT-B-16-quickgel'), f'did you mean {OTHER}'),
    ],
)
def test_a_setting_of_no_use_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        read(SSV2, **options)


# --- Parts that agree ---------------------------------------------------------------


@pytest.mark.parametrize('path, other', [(SSV2, 'cls_head.text'), (MSRVTT, 'text')])
def test_towers_of_two_clips_are_refused(path, other, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(path, model__backbone__clip__arch=OTHER)
    assert str(caught.value) == (
        f"{CLIP}.arch='{OTHER}' and model.{other}.arch='ViT-B-32-quickgelu' are two "
        f'CLIPs, whose embeddings cannot be compared; set both with --cfg-options '
        f'arch={OTHER} or arch=ViT-B-32-quickgelu'
    )
    with pytest.raises(ConfigError, match=f'arch={LARGE} image_size=336 or arch=ViT-B'):
        read(path, model__backbone__clip__arch=LARGE)
    weights = tmp_path / 'clip.pt'
    weights.touch()
    message = f"weights='{weights}' and .*'openai'.*weights={weights} or weights=openai"
    with pytest.raises(ConfigError, match=message):
        read(path, model__backbone__clip__weights=str(weights))
    read(path, model__backbone__clip__weights=None)  # the control of an experiment


def test_another_package_s_tool_refuses_them_when_it_starts(tmp_path):
    cfg = Config(tiny_config(tmp_path))
    runner = SimpleNamespace(cfg=cfg, model=MODELS.build(VIT))
    cfg.model.cls_head.text.arch = 'ViT-B-32-quickgelu'
    with pytest.raises(ConfigError, match='are two CLIPs'):
        ModelInfoHook().before_run(runner)


def test_a_file_and_the_name_that_it_brings_are_one_architecture(tmp_path):
    cfg = Config(tiny_config(tmp_path))
    MODELS.build(TEXT)  # reads the file
    cfg.model.cls_head.text.arch = 'ViT-tiny'
    check_config(cfg, [])


@pytest.mark.parametrize('split', ['train', 'test'])
def test_frames_of_another_size_are_refused(split):
    pipeline = f'{split}_dataloader.dataset.pipeline'
    message = (
        rf"{pipeline} makes frames of 336 x 336 pixels, {CLIP}.arch='ViT-B-32-.*' "
        rf'takes 224 x 224; set all pipelines with --cfg-options image_size=224'
    )
    option = {'train': '5.scale', 'test': '4.crop_size'}[split]
    cfg = load_config(SSV2, {f'{split}_dataloader.dataset.pipeline.3.scale': (-1, 400),
                             f'{split}_dataloader.dataset.pipeline.0.short_side': 400,
                             f'{pipeline}.{option}': 336 if split == 'test'
                             else (336, 336)})  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        check_config(cfg, [])


@pytest.mark.parametrize(
    'steps, size',
    [
        ([dict(type='CenterCrop', crop_size=(24, 32))], (24, 32)),
        ([dict(type='Resize', scale=(48, 32), keep_ratio=False)], (32, 48)),
        ([dict(type='mmaction.RandomCrop', size=32), dict(type='Flip')], (32, 32)),
        ([dict(type='CenterCrop', crop_size=32), dict(type='Unknown')], None),
        ([dict(type='Resize', scale=(-1, 32))], None),
        ([], None),
    ],
)
def test_size_of_a_pipeline_s_frames(steps, size):
    assert output_size(steps) == size


def test_captions_longer_than_the_text_tower_takes_are_refused():
    pipeline = read(MSRVTT, max_tokens=78).train_dataloader.dataset.pipeline
    with pytest.raises(ConfigError, match='max_tokens=78, expected 3 to 77, the cont'):
        TRANSFORMS.build(pipeline[6])


def test_the_tokens_of_another_tokenizer_are_refused():
    with pytest.raises(ConfigError, match='pipeline.6.arch=.* another tokenizer than'):
        read(MSRVTT, test_dataloader__dataset__pipeline__6__arch='ViT-B-16-SigLIP')


def test_a_size_that_no_config_tells_is_one_line_when_it_comes():
    with pytest.raises(ConfigError, match='got frames of .* ViT-tiny was built for'):
        MODELS.build(VIT)(torch.zeros(1, 3, 1, 40, 40))
    with pytest.raises(ConfigError, match='has 100 tokens, ViT-tiny has room for'):
        MODELS.build(TEXT).tokenize(['a ' * 100])


# --- Random tests -------------------------------------------------------------------

SAMPLE = dict(type='UniformSample', clip_len=4)


@pytest.mark.parametrize(
    'step, random',
    [
        (SAMPLE, True),
        (dict(SAMPLE, test_mode=True), False),
        (dict(type='SampleFrames', clip_len=4), True),
        (dict(type='RandomResizedCrop'), True),
        (dict(type='CenterCrop', crop_size=32), False),
        (dict(type='Flip'), True),
        (dict(type='Flip', flip_ratio=1), False),
        (dict(type='ColorJitter'), True),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else str(value),
)
def test_a_random_step_in_testing_triggers_a_warning(step, random, tmp_path):
    cfg = Config(tiny_config(tmp_path))
    cfg.val_dataloader = None
    cfg.test_dataloader.dataset.pipeline[1] = step
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        check_config(cfg, [])
    told = [str(w.message) for w in caught if 'is random' in str(w.message)]
    assert len(told) == random
    if random:
        start = f'test_dataloader.dataset.pipeline.1: {step["type"]} is random, so the'
        assert told[0].startswith(start)


def test_threads_read_configs_at_once():
    """In CPython 3.11, a parser that frees garbage may be left for another thread's."""

    class Garbage:
        def __init__(self):
            self.itself = self

        def __del__(self):
            time.sleep(1e-4)  # another thread goes on

    def load(_):
        Garbage()
        return load_config(SSV2).filename

    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert {*pool.map(load, range(30))} == {SSV2}
    finally:
        gc.set_threshold(*thresholds)
