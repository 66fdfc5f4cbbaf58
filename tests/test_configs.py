"""Every config builds with the tiny architecture, and says what it should."""

import re

import drawing
import pytest
import torch
import yaml
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from own_configs import CONFIGS, ONE_EACH, ROOT, read
from tiny import TINY

from mmstop.datasets import load_classes
from mmstop.registry import MODELS, TRANSFORMS

IS_RETRIEVAL = re.compile(r'_(msrvtt|vatex|activitynet|didemo)(_authors)?$|_retrieval$')
RETRIEVAL = [name for name in CONFIGS if IS_RETRIEVAL.search(name)]
RECOGNITION = [name for name in CONFIGS if name not in RETRIEVAL]
DATA_SETS = [path.stem for path in (ROOT / 'configs/_base_/tasks').glob('*.py')]


def split(name):
    """Part the name of a config into its method and its data set."""
    name = re.sub(r'_(split\d|authors)$', '', name)
    data_set = max((d for d in DATA_SETS if name.endswith(f'_{d}')), key=len)
    return name.removesuffix(f'_{data_set}'), data_set


def towers_of(part):
    """List the configs of the CLIP towers in the config of a model."""
    if 'arch' in part:
        return [part]
    return [t for v in part.values() if isinstance(v, dict) for t in towers_of(v)]


def build(config):
    for tower in towers_of(config.model):
        tower.update(arch=TINY, weights=None)
    text = config.model.get('cls_head', config.model).text
    if text.type == 'EfficientPromptCLIPText':
        text.num_prompts = 2  # the tiny text tower has room for little
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model)


@pytest.mark.parametrize('name', [n for n in RECOGNITION if n in ONE_EACH])
def test_recognition_builds_and_runs(name):
    config = read(name)
    config.model.cls_head.template = '{}'  # the tiny text tower has room for little
    if 'ssv2' in name:  # and the longest of these sentences need more
        config.model.cls_head.classes = ['holding something'] + [
            f'moving {number}' for number in range(173)
        ]
    if config.classes.startswith('data/'):  # a file that comes with the data set
        config.classes = [f'action {number}' for number in range(7)]
        config.model.cls_head.classes = config.classes
    model = build(config)
    T = config.num_frames
    features, options = model.extract_feat(torch.randn(1, 1, 3, T, 32, 32))
    scores = model.cls_head(features, **options)
    assert scores.shape == (1, len(load_classes(config.classes)))
    check_what_trains(model, config, name)


@pytest.mark.parametrize('name', [n for n in RETRIEVAL if n in ONE_EACH])
def test_retrieval_builds_and_runs(name):
    config = read(name)
    model = build(config)
    T = config.num_frames
    inputs = {
        'imgs': torch.randn(2, 1, 3, T, 32, 32),
        'text': model.text.tokenize(['a dog', 'two cats']),
    }
    with torch.no_grad():
        loss = model(inputs, mode='loss')['loss_contrastive']
    assert loss.isfinite()
    check_what_trains(model, config, name)


def check_what_trains(model, config, name):
    trains = any(p.requires_grad for p in model.parameters())
    assert trains == (config.get('train_dataloader') is not None)
    assert trains != name.startswith('clip_')


# Per data set: frames, tokens, epochs, mirrored in training, interpolation.
BICUBIC = ['bicubic', 'bicubic']  # while frames are decoded, and afterwards
VALUES = {
    'hmdb51': (12, None, 30, True, [None, None]),
    'ucf101': (12, None, 30, True, [None, None]),
    'ssv2': (12, None, 30, True, [None, None]),
    'k400': (12, None, 30, True, [None, None]),
    'k600': (12, None, 30, True, [None, None]),
    'msrvtt': (12, 32, 5, False, BICUBIC),
    'vatex': (12, 32, 5, False, BICUBIC),
    'didemo': (64, 64, 10, False, BICUBIC),
    'activitynet': (64, 64, 10, False, BICUBIC),
    'moving_shapes': (6, None, 8, True, [None]),
    'moving_shapes_retrieval': (6, 16, 12, True, [None]),
    'shapes_distractors': (6, None, 8, True, [None]),
    'shapes_tempo': (6, None, 8, True, [None]),
}
# Per method: the rate and the weight decay on real data, if not STOP's, and the rate on
# Moving Shapes, if not that of the data set.
RECIPES = {
    'aim': dict(real=(3e-4, 0.05)),
    'clip4clip': dict(real=(1e-4, 0.2), shapes=1e-2),
    'dgl_linear': dict(real=(2e-3, 0.2)),
    'dgl_transformer': dict(real=(2e-3, 0.2)),
    'lora': dict(real=(6e-4, 0.2)),
    'mpt_linear': dict(real=(2e-3, 0.2)),
    'mpt_transformer': dict(real=(2e-3, 0.2)),
    'tempme': dict(real=(6e-4, 0.2)),
    'unipt': dict(real=(1e-4, 0.2)),
}
# What a method may change everywhere.
TUNED = 'model', 'clip_vit', 'clip_text', 'optim_wrapper', 'recipe'
# Per config: what else its paper has on this data set.
OWN = {'aim_ssv2': ('train_cfg', 'train_dataloader', 'auto_scale_lr')}
# Options of a method's towers that depend on the data set.
VARIED = {
    'aim': ('num_frames', 'temporal_in'),
    'dgl_transformer': ('num_frames',),
    'efficient_prompt': ('num_frames', 'num_prompts'),
    'mpt_transformer': ('num_frames',),
    'upt': ('num_frames',),
    'vop_fp': ('num_frames',),
    'tempme': ('joins',),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_values_that_matter(name):
    """A swap of channels, say, costs accuracy and raises nothing."""
    (method, data_set), config = split(name), read(name)
    frames, tokens, epochs, mirrored, interpolation = VALUES[data_set]
    preprocessor = config.model.data_preprocessor
    if name in RETRIEVAL:
        preprocessor = preprocessor.preprocessors.imgs
    assert preprocessor == dict(
        type='ActionDataPreprocessor',
        mean=[122.771, 116.746, 104.094],  # red, green, blue, as decord reads them
        std=[68.501, 66.632, 70.323],
        format_shape='NCTHW',
    )
    for stage in ('train', 'val', 'test'):
        if config[f'{stage}_dataloader'] is None:
            continue
        dataset = config[f'{stage}_dataloader'].dataset
        assert dataset.get('test_mode', False) == (stage != 'train')
        steps = {step.type: step for step in dataset.pipeline}
        kinds = [step.type for step in dataset.pipeline]
        assert steps['UniformSample'].clip_len == frames
        assert steps['UniformSample'].get('test_mode', False) == (stage != 'train')
        assert steps.get('CaptionTokenize', {}).get('max_tokens') == tokens
        assert steps['FormatShape'].input_format == 'NCTHW'
        assert ('Flip' in kinds) == (mirrored and stage == 'train')
        assert ('RandomResizedCrop' in kinds) == (
            stage == 'train' and interpolation == [None, None]
        )
        found = [
            step.get('interpolation')
            for step in dataset.pipeline
            if step.type in ('CheckedDecordInit', 'Resize')
        ]
        assert set(found) == {*interpolation}
    if name in RECOGNITION:  # MMAction2's inferencers read this one
        assert config.test_pipeline == config.test_dataloader.dataset.pipeline
    if method == 'clip':
        for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
            assert config[key] is None
        return
    assert config.train_cfg.max_epochs == (50 if name == 'aim_ssv2' else epochs)
    recipe, optimizer = RECIPES.get(method, {}), config.optim_wrapper.optimizer
    if 'shapes' in data_set:
        expected = recipe.get('shapes', 3e-3), 0.05
    else:
        expected = recipe.get('real', (1e-3, 0.2))
    assert (optimizer.lr, optimizer.weight_decay) == expected
    if method == 'stop' and not name.endswith('_authors'):
        slow = {'spatial.prompter': {'lr_mult': 0.3}}
        assert config.optim_wrapper.paramwise_cfg == {'custom_keys': slow}


@pytest.mark.parametrize('name', CONFIGS)
def test_methods_of_a_data_set_differ_in_the_model_and_the_optimizer_only(name):
    (method, data_set), config = split(name), read(name).to_dict()
    if re.search('_(split.|authors)$', name):
        return  # see below
    stop = read(f'stop_{data_set}').to_dict()
    if method == 'clip':
        for key in ('train_dataloader', 'train_cfg', 'param_scheduler'):
            assert config.pop(key) is None and stop.pop(key)
    for key in (*TUNED, *OWN.get(name, ())):
        del stop[key]
    assert {key: config[key] for key in stop} == stop
    best = 'retrieval/t2v/R1' if name in RETRIEVAL else 'acc/top1'
    hook = config['default_hooks']['checkpoint']
    assert (hook['save_best'], hook['rule']) == (best, 'greater')


@pytest.mark.parametrize('name', CONFIGS)
def test_a_method_is_the_same_on_all_data_sets(name):
    """Only the CLIP inside and the sentences differ."""
    method, _ = split(name)
    if name.endswith('_authors'):
        return  # see below
    found, expected = towers_in(name), towers_in(f'{method}_hmdb51')
    for option in VARIED.get(method, ()):
        for tower in (*found, *expected):
            tower.pop(option, None)
    assert found == expected


def towers_in(name):
    model = read(name).model
    for tower in towers_of(model):
        del tower['arch'], tower['weights']
    text = model.text if name in RETRIEVAL else model.cls_head.text
    return [model.backbone.to_dict(), text.to_dict()]


def test_options_that_depend_on_the_data_set():
    for data_set, (frames, *_) in VALUES.items():
        if f'aim_{data_set}' in CONFIGS:
            aim = read(f'aim_{data_set}').model.backbone
            assert aim.num_frames == frames
            assert aim.get('temporal_in', False) == (data_set == 'ssv2')
    ssv2 = read('aim_ssv2')
    assert 8 * ssv2.train_dataloader.batch_size == ssv2.auto_scale_lr.base_batch_size
    assert ssv2.model.cls_head.label_smooth_eps == 0.1


@pytest.mark.parametrize(
    'method, trained',
    [
        ('bias', 124_928),
        ('adapter_attn', 1_982_976),
        ('adapter_ffn', 1_982_976),
        ('visual_text_adapter', 11_821_056),
        ('video_text_adapter', 11_950_080),
        ('lora', 491_520),
        ('aim', 10_651_392 + 12 * 768),
        ('vpt', 184_320),
        ('clip4clip', 123_540_993),
        ('clip', 0),
        ('stop', 6_533_632),
    ],
)
def test_trained_parameters_of_both_towers(method, trained):
    """The list is checked against the models by tests/test_docs.py."""
    listed = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    counts = {m['Name']: m['Metadata']['Trained Parameters'] for m in listed}
    assert counts[f'{method}_msrvtt'] == trained


def test_clip4clip_s_own_recipe():
    """A rate of 1e-7 everywhere, and decay for all but biases and norms."""
    config = read('clip4clip_msrvtt')
    model = build(config)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    groups = {id(group['params'][0]): group for group in optimizer.param_groups}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups.pop(id(parameter))
            assert group['lr'] == pytest.approx(1e-7)
            is_plain = not re.search(r'bias$|\.ln_\w+\.weight$', name)
            assert group['weight_decay'] == 0.2 * is_plain, name
    assert not groups


@pytest.mark.parametrize(
    'name, epochs, warm_up',
    [
        ('msrvtt', 5, 0.5),
        ('vatex', 5, 0.5),
        ('activitynet', 10, 1),
        ('didemo', 10, 1),
        ('ssv2', 30, 3),
        ('ucf101', 30, 3),
        ('hmdb51', 30, 3),
    ],
)
def test_recipe_of_the_authors(name, epochs, warm_up):
    """The published values; ours are the epochs of recognition alone."""
    config = read(f'stop_{name}').to_dict()
    assert config['optim_wrapper']['optimizer'] == dict(
        type='AdamW', lr=1e-3, weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6
    )
    rising, falling = config['param_scheduler']
    assert rising['type'] == 'LinearLR' and falling['type'] == 'CosineAnnealingLR'
    assert rising['end'] == falling['begin'] == warm_up == epochs / 10
    assert config['train_cfg']['max_epochs'] == epochs
    assert 8 * config['train_dataloader']['batch_size'] == 128  # on eight GPUs
    assert config['auto_scale_lr']['base_batch_size'] == 128
    assert 'depth' not in config['model']['backbone']  # prompts at every block


@pytest.mark.parametrize('name', ['msrvtt', 'vatex', 'activitynet', 'didemo'])
def test_settings_of_the_authors_code_differ_in_these_only(name):
    ours, theirs = (read(f'stop_{name}{x}').to_dict() for x in ('', '_authors'))
    ours['model']['backbone'].update(
        depth=1, alpha=0.0, beta=0.0, selection='hard', normalize_variation='batch'
    )
    ours['optim_wrapper'].update(type='AmpOptimWrapper', paramwise_cfg=None)
    if name == 'msrvtt':
        ours['train_dataloader']['batch_size'] = 32  # on four GPUs
    assert theirs.pop('authors') and theirs.pop('training')
    assert theirs == ours


@pytest.mark.parametrize('name', ['moving_shapes', 'moving_shapes_retrieval'])
def test_recipe_with_which_readme_s_figures_were_measured(name):
    config = read(f'stop_{name}').to_dict()
    optimizer = dict(type='AdamW', lr=3e-3, weight_decay=0.05)
    assert config['optim_wrapper']['optimizer'] == optimizer
    assert config['param_scheduler'][0]['end'] == 0.25
    assert 'depth' not in config['model']['backbone']  # prompts at every block


@pytest.mark.parametrize('name', CONFIGS)
def test_stays_short(name):
    assert len(CONFIGS[name].read_text().splitlines()) <= 10


def test_left_is_right_in_a_mirror():
    names = load_classes('ssv2')
    pipeline = read('stop_ssv2').train_dataloader.dataset.pipeline
    (flip,) = [step for step in pipeline if step.type == 'Flip']
    swap = {'left': 'right', 'right': 'left'}
    mirrored = [' '.join(swap.get(w, w) for w in name.split()) for name in names]
    assert flip.flip_label_map == {
        label: names.index(mirror)
        for label, mirror in enumerate(mirrored)
        if mirror != names[label] and mirror in names
    }


def test_moving_shapes_in_a_mirror():
    sideways, upside_down = [
        step.flip_label_map
        for step in read('stop_moving_shapes').train_dataloader.dataset.pipeline
        if step.type == 'Flip'
    ]
    names = load_classes('moving_shapes')
    for swap, labels in (
        ({'left': 'right', 'right': 'left'}, sideways),
        ({'upper': 'lower', 'lower': 'upper', 'up': 'down', 'down': 'up'}, upside_down),
    ):
        mirrored = [' '.join(swap.get(w, w) for w in name.split()) for name in names]
        assert [labels.get(i, i) for i in range(9)] == [
            names.index(m) for m in mirrored
        ]


def test_splits_differ_in_their_lists_only():
    for data in ('ucf101', 'hmdb51'):
        first, first_lists = take_lists(read(f'stop_{data}').to_dict())
        for split in (2, 3):
            other, lists = take_lists(read(f'stop_{data}_split{split}').to_dict())
            assert other == first
            assert lists == [
                x.replace('split_1', f'split_{split}') for x in first_lists
            ]


def take_lists(config):
    """Part a config from its three annotation files."""
    stages = [config[f'{stage}_dataloader'] for stage in ('train', 'val', 'test')]
    return config, [stage['dataset'].pop('ann_file') for stage in stages]


def test_moving_shapes_classes_are_the_generator_s():
    assert load_classes('moving_shapes') == list(drawing.CLASSES)


def test_words_are_mirrored_as_labels_are():
    """What a flip does to the captions of Moving Shapes and what it does to labels."""
    recognition = read('stop_moving_shapes').train_dataloader.dataset.pipeline
    flips = [step.flip_label_map for step in recognition if step.type == 'Flip']
    retrieval = read('stop_moving_shapes_retrieval').train_dataloader.dataset.pipeline
    mirrors = [step.words for step in retrieval if step.type == 'MirrorCaption']
    names = load_classes('moving_shapes')
    for labels, words in zip(flips, mirrors):
        mirror = TRANSFORMS.build(dict(type='MirrorCaption', words=words))
        found = mirror({'text': list(names), 'flip': True})['text']
        assert found == [names[labels.get(i, i)] for i in range(9)]
        assert mirror({'text': 'left', 'flip': False})['text'] == 'left'
    assert len(flips) == len(mirrors) == 2
