"""The contract that every method keeps: one table, one set of tests."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from pages import code_of
from tiny import VIT, still, wild

from mmstop.registry import MODELS

# What CLIP's normalisation makes of the darkest and the brightest pixels.
BLACK, WHITE = (-1.792, -1.752, -1.480), (1.930, 2.075, 2.146)
exec(code_of('new_method.md')[0], {'__name__': 'adapter'})  # AdapterCLIPViT
PAPER = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights=None)


@dataclass
class Method:
    name: str
    trained: int  # parameters that train with the defaults of ViT-B/32
    options: dict = field(default_factory=dict)
    tower: dict = field(default_factory=dict)  # options of the tower inside
    zeros: bool = False  # it starts with some, and so do some of its gradients
    idle: str = '^$'  # parameters that count in the paper but never get a gradient

    def build(self, clip: dict = VIT, in_training: bool = False) -> Any:
        """Build it for evaluation, where nothing is random.

        ``in_training`` gives it as it is after its first steps, when nothing is zero.
        """
        torch.manual_seed(0)
        clip = dict(clip, **self.tower)
        model = MODELS.build(dict(type=self.name, clip=clip, **self.options)).eval()
        if in_training and self.zeros:
            for parameter in trained_of(model).values():
                parameter.data += 0.02 * torch.randn_like(parameter)
        return model


LAST = r'^adapters\.mlp\.2\.'  # the adapter whose patches nobody reads
METHODS = [
    Method('STOPCLIPViT', 6_533_632),
    Method('STOPCLIPViT', 6_533_632, dict(attention='frame')),
    Method('STOPCLIPViT', 6_380_032, dict(selection='hard')),
    Method('STOPCLIPViT', 470_912, dict(temporal_scale=0)),
    Method('STOPCLIPViT', 6_062_720, dict(num_spatial=0)),
    Method('STOPCLIPViT', 6_533_632, dict(normalize_dynamics=False)),
    Method('STOPCLIPViT', 6_533_632, dict(depth=1)),
    Method('STOPCLIPViT', 6_540_256, dict(prompter='figure')),
    Method('STOPCLIPViT', 6_533_632, dict(strength=0.3, depth=2)),
    Method('DeepPromptCLIPViT', 73_728),
    Method('AdapterCLIPViT', 1_189_632),
    Method('AdapterATTN', 1_189_632, zeros=True),
    Method('AdapterFFN', 1_189_632, zeros=True),
    Method('HoulsbyAdapter', 7_091_712),
    Method('STAdapter', 7_220_736, zeros=True, idle=LAST),
    Method(
        'STAdapter',
        14_441_472,
        dict(before=['attention', 'mlp']),
        zeros=True,
        idle=LAST,
    ),
    Method('DGLCLIPViT', 827_392),
    Method('DGLCLIPViT', 9_575_168, dict(prompter='transformer')),
    Method('MPTCLIPViT', 864_256),
    Method('UPTCLIPViT', 9_572_096),
    Method('VoPCLIPViT', 73_728),
    Method('VoPCLIPViT', 344_064, dict(position=True, function=True)),
    Method('VoPCLIPViT', 14_220_288, dict(context=True, function=True)),
    Method('EfficientPromptCLIPViT', 6_310_912),
    Method('AIMCLIPViT', 10_657_536, zeros=True),
    Method('AIMCLIPViT', 14_208_000, dict(temporal_in=True), zeros=True),
    Method('TempMeCLIPViT', 311_040, tower=dict(lora=dict(rank=8)), zeros=True),
    Method('UniPT', 5_644_289, idle=r'^confidence\.bias$'),
    Method('DiscoVLACLIPViT', 347_168, tower=dict(lora=dict(rank=8)), zeros=True),
    Method('STOPCLIPViT', 6_533_632, tower=dict(merge=2)),
    Method('STOPCLIPViT', 6_533_632, dict(attention='frame'), dict(merge=2)),
    Method('STOPCLIPViT', 6_533_632, dict(merge_frames=2), dict(merge=2)),
    Method('STOPCLIPViT', 6_533_632, tower=dict(checkpoint=True)),
    Method('DeepPromptCLIPViT', 73_728, tower=dict(merge=2, checkpoint=True)),
]


def name_of(method):
    options = [*method.options.values(), *method.tower.items()]
    return '-'.join([method.name, *map(str, options)])


every_method = pytest.mark.parametrize('method', METHODS, ids=name_of)
# Where each takes long: those that share least in the fast suite, the rest in the slow.
FEW = METHODS[0], METHODS[8], METHODS[10], METHODS[-3]
# Methods with the graph of another one: of METHODS[10], and of DGL.
ALIKE = 'AdapterATTN', 'AdapterFFN', 'HoulsbyAdapter', 'MPTCLIPViT'
few_methods = pytest.mark.parametrize(
    'method',
    [
        m if m in FEW else pytest.param(m, marks=pytest.mark.slow)
        for m in METHODS
        if m.name not in ALIKE
        and not m.options.keys() & {'before', 'temporal_in', 'position'}
    ],
    ids=name_of,
)


def trained_of(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def text_share(model):
    """What a loss gets from the prompts for the text tower, if the method makes any."""
    prompts = model.text_prompts()
    return 0 if prompts is None else prompts.sum()


@every_method
def test_one_step_moves_all_that_trains_and_nothing_else(method):
    model = method.build(in_training=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(trained_of(model).values(), lr=0.1)
    target = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    ((model(wild(3, 5)) * target).sum() + text_share(model)).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            idle = bool(re.search(method.idle, name))
            assert (parameter.grad.abs().sum() < 1e-6) == idle, f'gradient of {name}'
        else:
            assert parameter.grad is None
            assert torch.equal(parameter, before[name]), f'{name} is frozen but moved'


@every_method
@pytest.mark.parametrize('video', [still(2, 4), wild(2, 1)], ids=['still', 'image'])
def test_no_gradient_is_missing_or_infinite_where_nothing_moves(method, video):
    model = method.build(in_training=True)
    (model(video).sum() + text_share(model)).backward()
    for name, parameter in trained_of(model).items():
        assert parameter.grad is not None, f'{name} would hang data-parallel training'
        assert parameter.grad.isfinite().all(), name


@every_method
@torch.no_grad()
def test_a_video_does_not_depend_on_its_neighbours(method):
    model = method.build(in_training=True)
    videos = torch.cat([wild(2, 8), still(2, 8), 1e-3 * wild(1, 8), 30 * wild(1, 8, 7)])
    videos[1, :, 4:] = videos[1, :, :1]  # half wild, half still
    together = model(videos)
    alone = torch.cat([model(video[None]) for video in videos])
    assert ((together - alone).norm(dim=1) / alone.norm(dim=1)).max() < 1e-4


@every_method
@torch.no_grad()
@pytest.mark.parametrize('T', [1, 4, 8])
def test_any_number_of_frames(method, T):
    embedding = method.build(in_training=True)(wild(2, T))
    assert embedding.shape == (2, 32)
    assert embedding.isfinite().all()


@every_method
@torch.no_grad()
def test_an_image_is_a_video_of_one_frame(method):
    model, video = method.build(), wild(2, 1)
    assert torch.equal(model(video[:, :, 0]), model(video))


@every_method
@torch.no_grad()
def test_what_was_trained_is_all_that_a_checkpoint_needs(method):
    model, video = method.build(), wild(2, 4)
    for parameter in trained_of(model).values():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    expected = model(video)
    saved = {
        n: v.clone()
        for n, v in model.state_dict().items()
        if 'clip.' not in n or n in trained_of(model)
    }
    for parameter in trained_of(model).values():
        parameter.normal_()
    assert not torch.allclose(model(video), expected)
    model.load_state_dict(saved)
    assert torch.equal(model(video), expected)


def test_only_frozen_parameters_may_be_missing_from_a_state():
    """What trains is told by name, be it the method's or part of the tower."""
    tower = MODELS.build(dict(VIT, trainable='ln_post'))
    found = tower.load_state_dict({}, strict=False).missing_keys
    assert sorted(found) == ['visual.ln_post.bias', 'visual.ln_post.weight']
    for method in {method.name: method for method in METHODS}.values():
        model = method.build()
        found = model.load_state_dict({}, strict=False).missing_keys
        expected = {n for n in model.state_dict() if not n.startswith('clip.')}
        assert {*found} == expected | {*trained_of(model)}


@every_method
def test_number_of_trained_parameters_on_the_paper_s_backbone(method):
    with torch.device('meta'):  # sizes without the memory
        model = method.build(PAPER)
    trained = sum(p.numel() for p in trained_of(model).values())
    assert trained == method.trained
    assert trained <= 7_530_000 or method.name != 'STOPCLIPViT'


@every_method
def test_autocast_stays_finite_forward_and_backward(method):
    assert_autocast_stays_finite(method, torch.bfloat16, extremes(1), extremes(4))


@pytest.mark.parametrize(
    'method',
    [
        m if m in METHODS[:2] else pytest.param(m, marks=pytest.mark.slow)
        for m in METHODS
    ],
    ids=name_of,
)
def test_autocast_to_float16_stays_finite_too(method):
    """The smaller range; on a CPU it takes longer."""
    assert_autocast_stays_finite(method, torch.float16, extremes(4))


@pytest.mark.slow  # float16 is slow on a CPU
@pytest.mark.parametrize('method', [METHODS[0], METHODS[1]], ids=['joint', 'frame'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_stays_finite_with_many_frames(method, dtype):
    assert_autocast_stays_finite(method, dtype, extremes(64))


def assert_autocast_stays_finite(method, dtype, *batches):
    model = method.build(in_training=True)
    for videos in batches:
        model.zero_grad()
        with torch.autocast('cpu', dtype):
            out = model(videos)
            prompts = text_share(model)
        (out.float().sum() + prompts).backward()
        assert out.isfinite().all()
        for name, parameter in trained_of(model).items():
            assert parameter.grad.isfinite().all(), name


def extremes(T):
    """A random, a still, a black and a white video: (4, 3, T, 32, 32)."""
    plain = torch.tensor([BLACK, WHITE])[:, :, None, None, None]
    return torch.cat([wild(1, T), still(1, T), plain.expand(-1, -1, T, 32, 32)])


@torch.no_grad()
def test_a_method_around_a_method_keeps_padding_hidden():
    """STOP masks its padding; the deep prompts inside must stay visible beside it."""
    torch.manual_seed(0)
    inner = dict(type='DeepPromptCLIPViT', clip=VIT)
    model = MODELS.build(dict(type='STOPCLIPViT', clip=inner))
    videos = torch.cat([wild(2, 6), still(1, 6)])
    alone = torch.cat([model(video[None]) for video in videos])
    torch.testing.assert_close(model(videos), alone, atol=1e-5, rtol=1e-4)
    model.clip.prompts.normal_()
    assert not torch.allclose(model(videos), alone, atol=1e-2)


@few_methods
def test_compiles_whole_and_once(method):
    """No graph break, and no recompilation for another number of prompts."""
    torch._dynamo.reset()
    model = method.build(in_training=True)
    # One method compiles its backward pass, too, which takes three times as long.
    backend = 'aot_eager' if method is METHODS[0] else 'eager'
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        for video in (wild(2, 5), still(2, 5).contiguous(), wild(2, 5, seed=1)):
            model.zero_grad()
            (model(video).sum() + text_share(model)).backward()
            expected = {n: p.grad.clone() for n, p in trained_of(model).items()}
            model.zero_grad()
            (compiled(video).sum() + text_share(model)).backward()
            torch.testing.assert_close(compiled(video), model(video))
            for name, parameter in trained_of(model).items():
                torch.testing.assert_close(
                    parameter.grad, expected[name], atol=1e-5, rtol=1e-3
                )


@every_method
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::FutureWarning')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_trace_of_torch_gives_what_the_method_gives(method):
    model, video = method.build(in_training=True), wild(2, 4)
    traced = torch.jit.trace(model, video, check_trace=False)
    torch.testing.assert_close(traced(video), model(video))


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_flops_are_counted_as_mmaction2s_tool_does():
    model = METHODS[0].build().eval()
    found = get_model_complexity_info(model, (3, 4, 32, 32))
    assert found['flops'] > 1e6 and found['params'] > 1e5


def test_checkpointing_computes_twice_and_changes_nothing(monkeypatch):
    calls, feed = [], MODELS.get('CLIPViT').feed
    monkeypatch.setattr(
        MODELS.get('CLIPViT'), 'feed', lambda *args: calls.append(1) or feed(*args)
    )
    grads = []
    for checkpoint in (False, True):
        model = Method('STOPCLIPViT', 0, tower=dict(checkpoint=checkpoint)).build()
        model(wild(2, 5)).sum().backward()
        grads.append([p.grad for p in trained_of(model).values()])
    assert all(map(torch.equal, *grads))
    assert len(calls) == 3 + 2 * 3
    with torch.no_grad():
        model(wild(2, 5))  # nothing to go backward through, nothing twice
    assert len(calls) == 3 + 2 * 3 + 3
