"""Adapters and AIM, against loops, around both towers and inside other methods."""

import pytest
import torch
import torch.nn.functional as F
from test_methods import Method, trained_of
from tiny import TEXT, VIT, still, wild

from mmstop.errors import ConfigError
from mmstop.registry import MODELS

TOKENS = torch.tensor([[98, 5, 6, 7, 99, 0, 0], [98, 8, 99, 0, 0, 0, 0]])
B32 = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights=None)
IN_TEXT = [
    Method('AdapterATTN', 793_344, zeros=True),
    Method('AdapterFFN', 793_344, zeros=True),
    Method('HoulsbyAdapter', 4_729_344),
]
IN_VIDEO = [
    *IN_TEXT,
    Method('STAdapter', 0, dict(before=['attention', 'mlp']), zeros=True),
    Method('AIMCLIPViT', 0, dict(temporal_in=True), zeros=True),
]
in_text = pytest.mark.parametrize('method', IN_TEXT, ids=lambda m: m.name)
in_video = pytest.mark.parametrize('method', IN_VIDEO, ids=lambda m: m.name)


# --- Text towers ----------------------------------------------------------------------


@in_text
def test_in_a_text_tower_all_that_trains_gets_a_gradient_and_nothing_else(method):
    model = method.build(TEXT, in_training=True)
    target = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    (model(TOKENS) * target).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith('adapters.')
        if parameter.requires_grad:
            assert parameter.grad.abs().sum() > 0, name


@in_text
@torch.no_grad()
def test_in_a_text_tower_a_text_depends_on_itself_alone(method):
    model = method.build(TEXT, in_training=True)
    alone = torch.cat([model(text[None]) for text in TOKENS])
    torch.testing.assert_close(model(TOKENS), alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(TOKENS[:, :5]), model(TOKENS))  # nor on padding


@in_text
@torch.no_grad()
def test_in_a_text_tower_a_checkpoint_needs_what_was_trained(method):
    model = method.build(TEXT, in_training=True)
    expected = model(TOKENS)
    saved = {n: v.clone() for n, v in model.state_dict().items() if 'clip.' not in n}
    for parameter in trained_of(model).values():
        parameter.normal_()
    model.load_state_dict(saved)
    assert torch.equal(model(TOKENS), expected)


@in_text
def test_in_a_text_tower_as_many_parameters_train_as_the_paper_counts(method):
    with torch.device('meta'):
        model = method.build(B32)
    assert sum(p.numel() for p in trained_of(model).values()) == method.trained


# --- Against other ways to compute the same -------------------------------------------


@in_video
@torch.no_grad()
def test_starts_as_frozen_clip(method):
    video, close = wild(2, 4), dict(atol=1e-5, rtol=0)
    if not method.zeros:  # but almost
        close = dict(atol=1e-2, rtol=0)
    model = method.build()
    torch.testing.assert_close(model(video), model.clip(video), **close)
    if method.name not in ('STAdapter', 'AIMCLIPViT'):
        model = method.build(TEXT)
        expected = model.clip(TOKENS)
        torch.testing.assert_close(model(TOKENS), expected, atol=5e-2, rtol=0)


def bottleneck(layers, x, activation=torch.relu):
    down, up = [m for m in layers if isinstance(m, torch.nn.Linear)]
    return activation(x @ down.weight.T + down.bias) @ up.weight.T + up.bias


def run(clip, x, attend, feed):
    """Run all blocks for all tokens: (..., L, D)."""
    for i, block in enumerate(clip.blocks):
        x = x + attend(i, block, x)
        x = x + feed(i, block, x)
    return x


def attention_of(block, x, **options):
    """Run PyTorch's own attention over the last axis but one."""
    out = block.attn(*3 * [x.flatten(0, -3)], need_weights=False, **options)[0]
    return out.view_as(x)


EQUATIONS = {
    'AdapterATTN': (
        lambda a, block, x, y: y + bottleneck(a, block.ln_1(x)),
        lambda a, block, x, y: y,
    ),
    'AdapterFFN': (
        lambda a, block, x, y: y,
        lambda a, block, x, y: y + 0.1 * bottleneck(a, x),
    ),
    'HoulsbyAdapter': (
        lambda a, block, x, y: y,
        lambda a, block, x, y: y + bottleneck(a, y),
    ),
}


@in_text
@pytest.mark.parametrize('tower', [VIT, TEXT], ids=['video', 'text'])
@torch.no_grad()
def test_adapters_are_their_equations(method, tower):
    model = method.build(tower, in_training=True)
    inputs = wild(2, 3) if tower is VIT else TOKENS
    in_attention, in_mlp = EQUATIONS[method.name]
    L = inputs.shape[-1]
    causal = torch.full((L, L), -torch.inf).triu(1) if tower is TEXT else None

    def attend(i, block, x):
        y = block.ln_1(x)
        y = attention_of(block, y[:, None], attn_mask=causal).view_as(x)
        return in_attention(model.adapters[i], block, x, y)

    def feed(i, block, x):
        return in_mlp(model.adapters[i], block, x, block.mlp(block.ln_2(x)))

    x = run(model.clip, model.clip.embed(inputs), attend, feed)
    expected = model.clip.pool(x, inputs)
    torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-4)


def convolve(adapter, patches, grid):
    """Sum over the neighbours in time and space, one by one: (B, T, N, D)."""
    B, T, N, _ = patches.shape
    x = adapter.down(patches).unflatten(2, grid)
    out = torch.zeros_like(x) + adapter.conv.bias
    for t, r, c in torch.cartesian_prod(*map(torch.arange, (T, *grid))).tolist():
        for s, q, d in torch.cartesian_prod(*3 * [torch.tensor([-1, 0, 1])]).tolist():
            if 0 <= t + s < T and 0 <= r + q < grid[0] and 0 <= c + d < grid[1]:
                weight = adapter.conv.weight[:, 0, 1 + s, 1 + q, 1 + d]
                out[:, t, r, c] += weight * x[:, t + s, r + q, c + d]
    return adapter.up(out.flatten(2, 3))


@pytest.mark.parametrize('before', [['attention'], ['mlp'], ['attention', 'mlp']])
@torch.no_grad()
def test_st_adapter_is_a_loop_over_neighbours(before):
    options = dict(before=before, hidden=8)
    model = Method('STAdapter', 0, options, zeros=True).build(in_training=True)
    for parameter in model.adapters.parameters():
        parameter.normal_(std=0.3)

    def shift(place, i, x):
        if place not in model.adapters:
            return torch.zeros_like(x)
        update = convolve(model.adapters[place][i], x[:, :, 1:], model.grid)
        return F.pad(update, (0, 0, 1, 0))

    def attend(i, block, x):
        update = shift('attention', i, x)
        return update + attention_of(block, block.ln_1(x + update))

    def feed(i, block, x):
        update = shift('mlp', i, x)
        return update + block.mlp(block.ln_2(x + update))

    video = wild(2, 3)
    x = run(model.clip, model.clip.embed(video), attend, feed)
    expected = model.clip.pool(x, video)
    torch.testing.assert_close(model(video), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, model.clip(video), atol=1e-2)


@pytest.mark.parametrize('temporal_in', [False, True])
@torch.no_grad()
def test_aim_is_its_equations_token_by_token(temporal_in):
    options = dict(temporal_in=temporal_in, num_frames=3, scale=0.5)
    model = Method('AIMCLIPViT', 0, options, zeros=True).build(in_training=True)
    for parameter in trained_of(model).values():
        parameter.normal_(std=0.1)

    def attend(i, block, x):
        over_time = torch.zeros_like(x)
        for token in range(x.shape[2]):
            y = block.ln_1(x[:, :, token])  # (B, T, D)
            if temporal_in:
                y = y + bottleneck(model.temporal_in[i], y, F.gelu)
            y = attention_of(block, y[:, None])[:, 0]
            over_time[:, :, token] = bottleneck(model.temporal_out[i], y, F.gelu)
        y = attention_of(block, block.ln_1(x + over_time))
        return over_time + y + bottleneck(model.spatial[i], y, F.gelu)

    def feed(i, block, x):
        y = block.ln_2(x)
        return block.mlp(y) + 0.5 * bottleneck(model.mlp[i], y, F.gelu)

    video = wild(2, 3)
    tokens = model.clip.look_up(video) + model.positions[:, None]
    x = run(model.clip, model.clip.place(tokens), attend, feed)
    expected = model.clip.pool(x, video)
    torch.testing.assert_close(model(video), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, model.clip(video), atol=1e-2)


@torch.no_grad()
def test_aim_drops_paths_of_whole_videos_in_training_only():
    model = Method('AIMCLIPViT', 0, dict(drop_path=0.9), zeros=True).build()
    for block in model.temporal_out:
        block[-1].bias.normal_()  # a large update over time
    video = wild(1, 2).expand(16, -1, -1, -1, -1)
    assert len(model(video).round(decimals=3).unique(dim=0)) == 1
    assert len(model.train()(video).round(decimals=3).unique(dim=0)) > 1


# --- Around and inside other methods --------------------------------------------------


@in_video
def test_inside_stop_it_starts_as_stop_and_learns(method):
    inner = dict(type=method.name, clip=VIT, **method.options)
    joint = method.name not in ('STAdapter', 'AIMCLIPViT')
    outer = Method('STOPCLIPViT', 0, dict(attention='joint' if joint else 'frame'))
    stop, model = outer.build(), outer.build(inner)
    model.load_state_dict(stop.state_dict(), strict=False)  # the same prompters
    videos = torch.cat([wild(2, 4), still(1, 4)])
    if method.zeros:
        torch.testing.assert_close(model(videos), stop(videos), atol=1e-5, rtol=1e-4)
    for parameter in trained_of(model.clip).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    out = model(videos)
    assert not torch.allclose(out, stop(videos), atol=1e-3)
    alone = torch.cat([model(video[None]) for video in videos])
    torch.testing.assert_close(out, alone, atol=1e-5, rtol=1e-4)
    out.square().sum().backward()
    for name, parameter in trained_of(model.clip).items():
        assert parameter.grad.isfinite().all(), name


@in_video
@torch.no_grad()
def test_around_and_inside_deep_prompts(method):
    """Prompts stay visible and count neither as patches nor as frames."""
    inner = dict(type=method.name, clip=VIT, **method.options)
    outer = Method('DeepPromptCLIPViT', 0, dict(num_prompts=3))
    prompted, inside = outer.build(), outer.build(inner)
    inside.prompts.copy_(prompted.prompts)
    around = method.build(dict(type='DeepPromptCLIPViT', num_prompts=3, clip=VIT))
    around.clip.prompts.copy_(prompted.prompts)
    video, close = wild(2, 3), dict(atol=1e-5 if method.zeros else 1e-2, rtol=0)
    torch.testing.assert_close(inside(video), prompted(video), **close)
    torch.testing.assert_close(around(video), prompted(video), **close)


@pytest.mark.parametrize('name', ['STAdapter', 'AIMCLIPViT'])
def test_frames_that_were_joined_are_refused(name):
    model = MODELS.build(dict(type='STOPCLIPViT', clip=dict(type=name, clip=VIT)))
    with pytest.raises(ConfigError, match=f"{name} needs .* set attention='frame'"):
        model(wild(1, 3))
    with pytest.raises(ConfigError, match=f'{name} needs .* remove merge=2'):
        MODELS.build(dict(type=name, clip=dict(VIT, merge=2)))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(type='AdapterATTN', hidden=0), 'hidden=0 leaves nothing to train'),
        (dict(type='AdapterFFN', dropout=2), r'dropout=2 is outside \[0, 1\]'),
        (dict(type='AdapterFFN', hidden='64'), "hidden='64' is of type str"),
        (dict(type='STAdapter', hidden=0), 'hidden=0 leaves nothing to train'),
        (dict(type='STAdapter', kernel=(3, 2, 3)), r'kernel=\(3, 2, 3\), expected thr'),
        (dict(type='STAdapter', before=('end',)), r"before=\('end',\), expected some"),
        (dict(type='AIMCLIPViT', num_frames=0), 'num_frames=0, expected at least 1'),
        (dict(type='AIMCLIPViT', drop_path=1), r'drop_path=1 is outside \[0, 1\)'),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(dict(options, clip=VIT))
