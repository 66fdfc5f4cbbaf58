"""Methods with prompts in every block: sizes, stacking, errors, texts, configs."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import TEXT, TINY, VIT, wild

from mmstop.classes import load_classes, write_sentences
from mmstop.errors import ConfigError
from mmstop.registry import MODELS

CONFIGS = Path(__file__).parents[1] / 'configs'
FAMILIES = 'dgl', 'efficient_prompt', 'mpt', 'upt', 'vop'
PATHS = sorted(path for name in FAMILIES for path in (CONFIGS / name).glob('*.py'))
DATA = (
    'hmdb51 ucf101 ssv2 msrvtt vatex didemo activitynet moving_shapes '
    'moving_shapes_retrieval shapes_distractors shapes_tempo'
).split()
TOKENS = torch.tensor([[98, 5, 6, 7, 99, 0, 0], [98, 8, 99, 0, 0, 0, 0]])
VIT_B = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights=None)
TEXT_B = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights=None)


def build(kind, clip=VIT, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type=kind, clip=clip, **options)).eval()


# --- Sizes ----------------------------------------------------------------------------

OWN = dict(type='PromptedCLIPText', clip=TEXT_B)
SHARED = dict(OWN, num_prompts=0)


@pytest.mark.parametrize(
    'trained, kind, text, options',
    [
        (827_392, 'DGLCLIPViT', SHARED, {}),
        (9_575_168, 'DGLCLIPViT', SHARED, dict(prompter='transformer')),
        (864_256, 'MPTCLIPViT', SHARED, {}),
        (9_612_032, 'MPTCLIPViT', SHARED, dict(prompter='transformer')),
        (9_572_096, 'UPTCLIPViT', SHARED, {}),
        (122_880, 'VoPCLIPViT', OWN, {}),
        (528_384, 'VoPCLIPViT', OWN, dict(position=True)),
        (14_257_152, 'VoPCLIPViT', OWN, dict(context=True)),
        (393_216, 'VoPCLIPViT', OWN, dict(position=True, function=True)),
        (14_269_440, 'VoPCLIPViT', OWN, dict(context=True, function=True)),
        (
            6_350_336,
            'EfficientPromptCLIPViT',
            dict(type='EfficientPromptCLIPText', clip=TEXT_B),
            {},
        ),
    ],
)
def test_parameters_of_both_towers_are_those_of_the_papers(
    trained, kind, text, options
):
    with torch.device('meta'):
        towers = build(kind, VIT_B, **options), MODELS.build(text)
    found = [p for tower in towers for p in tower.parameters() if p.requires_grad]
    assert sum(p.numel() for p in found) == trained


METHODS = [
    dict(type='DGLCLIPViT'),
    dict(type='MPTCLIPViT'),
    dict(type='UPTCLIPViT'),
    dict(type='VoPCLIPViT', context=True, function=True),
]


@pytest.mark.parametrize('method', METHODS, ids=lambda method: method['type'])
def test_methods_that_change_steps_work_inside(method):
    """Deep prompts inside are seen by every query, and learn."""
    inner = dict(type='DeepPromptCLIPViT', clip=VIT)
    model = MODELS.build(dict(method, clip=inner))
    plain = MODELS.build(dict(method, clip=VIT))
    state = {n: p for n, p in model.state_dict().items() if not n.startswith('clip.')}
    plain.load_state_dict(state)
    video = wild(2, 3)
    out = model(video)
    out.sum().backward()
    assert model.clip.prompts.grad.flatten(1).abs().sum(1).gt(0).all()
    assert not torch.allclose(out, plain(video), atol=1e-3)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(type='UPTCLIPViT', num_prompts=0), 'num_prompts=0, expected at least 1'),
        (dict(type='DGLCLIPViT', num_global=0), 'num_global=0, expected at least 1'),
        (dict(type='DGLCLIPViT', prompter='deep'), "use 'linear' or 'transformer'"),
        (dict(type='MPTCLIPViT', num_temporal=0), 'num_temporal=0, expected'),
        (dict(type='VoPCLIPViT', position=True, context=True), 'set one of them'),
        (dict(type='VoPCLIPViT', context=True, num_prompts=3), 'expected an even'),
        (dict(type='VoPCLIPViT', clip=dict(VIT, merge=2)), 'cannot merge patches'),
        (dict(type='EfficientPromptCLIPViT', num_layers=0), 'num_layers=0, expected'),
        (
            dict(type='EfficientPromptCLIPViT', clip=dict(VIT, trainable='ln_post')),
            'clip.visual.ln_post.weight is trainable',
        ),
        (
            dict(type='EfficientPromptCLIPText', clip=TEXT, num_prompts=7),
            'no room for words in the 16 places',
        ),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build({'clip': VIT, **options})


# --- Text towers ----------------------------------------------------------------------


def test_efficient_prompt_says_which_text_leaves_no_room():
    model = build('EfficientPromptCLIPText', TEXT, num_prompts=5)
    assert model.context_length == 6
    assert model.tokenize(['a dog', 'a red dog runs']).shape == (2, 6)
    with pytest.raises(ConfigError, match="'a red dog runs fast' has 7 tokens, 10 pro"):
        model.tokenize(['a dog', 'a red dog runs fast'])
    with pytest.raises(ConfigError, match='a text has 7 tokens, .* max_tokens'):
        model(torch.tensor([[98, 1, 2, 3, 4, 5, 99]]))


TEXTS = [
    (49_152, dict(type='PromptedCLIPText')),
    (39_424, dict(type='EfficientPromptCLIPText')),
]


@pytest.mark.parametrize('trained, text', TEXTS, ids=lambda text: str(text))
def test_contract_of_text_towers(trained, text):
    """Gradients, independence of neighbours, checkpoints and sizes."""
    with torch.device('meta'):
        large = build(clip=TEXT_B, kind=text['type'])
    assert sum(p.numel() for p in large.parameters() if p.requires_grad) == trained

    model = build(text['type'], TEXT, num_prompts=4)
    together = model(TOKENS)
    alone = torch.cat([model(one[None]) for one in TOKENS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    (together * torch.arange(32)).sum().backward()
    trained_of = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained_of
    for name, parameter in model.named_parameters():
        if name in trained_of:
            assert parameter.grad.abs().sum() > 0
        else:
            assert parameter.grad is None

    saved = {n: v.clone() for n, v in model.state_dict().items() if n in trained_of}
    for parameter in trained_of.values():
        parameter.data.normal_()
    assert not torch.allclose(model(TOKENS), together)
    model.load_state_dict(saved)
    assert torch.equal(model(TOKENS), together)


@pytest.mark.slow  # torch.export takes seconds to import
@torch.no_grad()
@pytest.mark.parametrize('kind', [text['type'] for _, text in TEXTS])
def test_text_towers_export_for_any_batch(kind):
    model = build(kind, TEXT, num_prompts=4)
    batch = ({0: torch.export.Dim('batch')},)
    graph = torch.export.export(model, (TOKENS,), dynamic_shapes=batch).module()
    torch.testing.assert_close(graph(TOKENS[:1]), model(TOKENS[:1]))


# --- Configs --------------------------------------------------------------------------


def build_tiny(config):
    """Build a config's model with the tiny architecture."""
    head = config.model.get('cls_head', config.model)
    for tower in (config.model.backbone, head.text):
        tower.clip.update(arch=TINY, weights=None)
    if head.text.type == 'EfficientPromptCLIPText':
        head.text.num_prompts = 2  # the tiny text tower has room for little
    if 'classes' in head:
        head.template, head.classes = '{}', ['run', 'jump high']
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(config.model)


# The data sets of a task differ in what the next test reads.
BUILT = [path for path in PATHS if path.stem.endswith(('_hmdb51', '_msrvtt'))]


@pytest.mark.parametrize('path', BUILT, ids=lambda path: path.stem)
def test_configs_train_both_towers(path):
    config = Config.fromfile(path)
    model, video = build_tiny(config), wild(2, 3)[:, None]
    if 'cls_head' in config.model:
        features, options = model.extract_feat(video)
        loss = model.cls_head(features, **options).softmax(-1)[:, 0].sum()
    else:
        inputs = dict(imgs=video, text=TOKENS)
        loss = model(inputs, mode='loss')['loss_contrastive']
    loss.backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


@pytest.mark.parametrize('family', FAMILIES)
def test_frames_and_rates_of_the_configs(family):
    for path in PATHS:
        if path.parent.name == family and path.stem.endswith('_activitynet'):
            config = Config.fromfile(path)
            rate = config.optim_wrapper.optimizer.lr
            assert rate == (2e-3 if family in ('dgl', 'mpt') else 1e-3), path
            backbone = config.model.backbone
            by_place = backbone.get('position') or 'prompter' in backbone
            if by_place or family in ('upt', 'efficient_prompt'):
                assert backbone.num_frames == config.num_frames == 64, path


@pytest.mark.parametrize('data', DATA)
def test_texts_leave_efficient_prompt_room(data):
    """All sentences and captions fit, on the text tower of the config."""
    config = Config.fromfile(CONFIGS / f'efficient_prompt/efficient_prompt_{data}.py')
    head = config.model.get('cls_head', config.model)
    head.text.clip.weights = None
    with torch.device('meta'):
        tower = MODELS.build(head.text)
    if 'cls_head' in config.model:
        template = head.get('template', 'a video of a person doing {}')
        tower.tokenize(write_sentences(template, load_classes(head.classes)))
    elif data == 'moving_shapes_retrieval':
        sys.path.insert(0, str(CONFIGS.parent / 'tools' / 'data'))
        from drawing import CLASSES, COLOURS, SHAPES
        from moving_shapes import caption

        pairs = [(s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS))]
        tower.tokenize([caption(p, k) for p in pairs for k in range(len(CLASSES))])
    else:
        pipeline = config.train_dataloader.dataset.pipeline
        (step,) = [step for step in pipeline if step.type == 'CaptionTokenize']
        assert step.max_tokens <= tower.context_length


def test_every_method_has_a_config_for_every_data_set():
    names = [path.stem for path in PATHS]
    methods = (
        'efficient_prompt upt vop vop_fp vop_fc dgl_linear dgl_transformer mpt_linear '
        'mpt_transformer'
    )
    expected = {f'{method}_{data}' for method in methods.split() for data in DATA}
    assert {*names} == expected and len(names) == len(expected)
