"""STOP against a slow reference written from the equations, one video at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import VIT, still, wild

from mmstop.registry import MODELS


def build(**options):
    torch.manual_seed(0)
    return MODELS.build(dict(type='STOPCLIPViT', clip=VIT, **options)).eval()


def conv3d(scorer, x):
    """N^s or N^t with plain loops over time: (T, N, D) -> (T, N, D)."""
    rows, cols = scorer.grid
    z = (x @ scorer.down.weight.T).permute(2, 0, 1).unflatten(2, (rows, cols))
    z = torch.cat([z[:, :1], z, z[:, -1:]], dim=1)  # repeat first and last frame
    z = F.pad(z, (1, 1, 1, 1))
    T = x.shape[0]
    weight = scorer.conv.weight  # (C, C, 3, 3, 3)
    out = x.new_zeros(weight.shape[0], T, rows, cols)
    for t in range(T):
        for r in range(rows):
            for c in range(cols):
                window = z[:, t : t + 3, r : r + 3, c : c + 3]
                out[:, t, r, c] = (weight * window).sum((1, 2, 3, 4))
    return out.flatten(2).permute(1, 2, 0) @ scorer.up.weight.T


def spatial_reference(model, h, attention):
    """Eq. 1 to 7 for one video: tokens (T, N, D), A (T, N)."""
    prompter = model.spatial
    T, N, D = h.shape
    prompted, region = h.clone(), torch.zeros(T, N, dtype=torch.bool)
    if prompter is None:
        return h.new_zeros(T, N), h.new_zeros(T, N), prompted, region
    M = (conv3d(prompter.scorer, h) ** 2).mean(-1)
    if prompter.normalize_dynamics:
        M = M / M.sum(-1, keepdim=True)
    W = prompter.alpha * attention + (1 - prompter.alpha) * M
    for i in range(T):
        ranked = sorted(range(N), key=lambda j: (-W[i, j].item(), j))
        for j in ranked[: prompter.num_spatial]:
            region[i, j] = True
            before, after = h[max(i - 1, 0), j], h[min(i + 1, T - 1), j]
            prompt = prompter.prompter(torch.cat([before, h[i, j], after]))
            prompted[i, j] = h[i, j] + prompt
    return M, W, prompted, region


def temporal_reference(model, h, region):
    """Eq. 8 to 12 for one video: W^t, N^t and each gap's prompts."""
    prompter, gaps = model.temporal, len(h) - 1
    if prompter is None or not gaps:
        return h.new_zeros(gaps), [0] * gaps, [h.new_zeros(0, h.shape[2])] * gaps
    change = h[1:] - h[:-1]
    E = conv3d(prompter.scorer, change)
    energy = torch.stack(
        [
            ((1 + prompter.beta * region[i + 1]) * (E[i] ** 2).sum(-1)).sum()
            / (h.shape[1] * h.shape[2])
            for i in range(len(change))
        ]
    )
    low, high = energy.min(), energy.max()
    if high < 1e-6 * (h**2).mean():
        W = torch.zeros_like(energy)
    elif high - low <= 1e-4 * high:
        W = torch.ones_like(energy)
    else:
        W = (energy - low) / (high - low)
    counts, prompts = [], []
    for i, w in enumerate(W.tolist()):
        n = math.ceil(prompter.temporal_scale * w)
        start = sum(range(n))  # the layers before the n-th give 1 + 2 + .. tokens
        tokens = prompter.bank(prompter.trunk(change[i])).unflatten(0, (-1, h.shape[2]))
        counts.append(n)
        prompts.append(tokens[start : start + n])
    return W, counts, prompts


def by_hand(model, video, attention):
    """The whole of STOP for one video (3, T, H, W), with open_clip's own blocks."""
    clip = model.clip
    visual = clip.visual
    tokens = clip.embed(video[None])[0]
    A = clip.cls_attention(0, tokens)
    M, W, h, region = spatial_reference(model, tokens[:, 1:], A)
    Wt, counts, prompts = temporal_reference(model, h, region)
    cls = tokens[:, :1]
    if attention == 'joint':
        pieces = [cls[0], h[0]]
        for i, prompt in enumerate(prompts):
            pieces += [prompt, h[i + 1]]
        sequences = [torch.cat(pieces)]
    else:
        none = h.new_zeros(0, h.shape[2])
        sequences = [
            torch.cat([cls[i], h[i], prompts[i - 1] if i else none])
            for i in range(len(h))
        ]
    pooled = []
    for x in sequences:
        x = visual.transformer(x[None])
        pooled.append(F.normalize(visual.ln_post(x[0, 0]) @ visual.proj, dim=0))
    return torch.stack(pooled).mean(0), M, W, region, Wt, counts


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
@pytest.mark.parametrize('T', [1, 2, 5])
def test_equals_the_equations(attention, T):
    model = build(attention=attention)
    videos = torch.cat([wild(2, T), still(1, T)])
    embeddings, trace = model(videos), model.trace(videos)
    for b, video in enumerate(videos):
        embedding, M, W, region, Wt, counts = by_hand(model, video, attention)
        torch.testing.assert_close(embeddings[b], embedding, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(trace.dynamics[b], M)
        torch.testing.assert_close(trace.saliency[b], W)
        assert torch.equal(trace.region[b], region)
        torch.testing.assert_close(trace.variation[b], Wt, atol=1e-4, rtol=1e-3)
        assert trace.num_prompts[b].tolist() == counts


@torch.no_grad()
def test_prompts_off_is_clip():
    video = wild(2, 4)
    visual = MODELS.build(VIT).visual
    frames = torch.stack([F.normalize(visual(video[:, :, t]), dim=1) for t in range(4)])
    off = build(attention='frame', num_spatial=0, temporal_scale=0)
    torch.testing.assert_close(off(video), frames.mean(0), atol=1e-5, rtol=0)
    joint = build(attention='joint', num_spatial=0, temporal_scale=0)
    tokens = joint.clip.embed(video)
    x = torch.cat([tokens[:, 0, :1], tokens[:, :, 1:].flatten(1, 2)], dim=1)
    x = visual.ln_post(visual.transformer(x)[:, 0]) @ visual.proj
    torch.testing.assert_close(joint(video), F.normalize(x, dim=1), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize('num_spatial, temporal_scale', [(6, 12), (3, 5), (16, 1)])
def test_trace_satisfies_the_equations(num_spatial, temporal_scale):
    model = build(num_spatial=num_spatial, temporal_scale=temporal_scale, alpha=0.3)
    trace = model.trace(torch.cat([wild(3, 6), still(1, 6)]))
    ones = torch.ones(4, 6)
    torch.testing.assert_close(trace.attention.sum(-1), ones)  # Eq. 2
    torch.testing.assert_close(trace.dynamics.sum(-1), ones)  # Eq. 4
    mixed = 0.3 * trace.attention + 0.7 * trace.dynamics
    torch.testing.assert_close(trace.saliency, mixed)  # Eq. 5
    assert (trace.region.sum(-1) == num_spatial).all()  # Eq. 6
    inside = trace.saliency.masked_fill(~trace.region, 2).amin(-1)
    outside = trace.saliency.masked_fill(trace.region, -1).amax(-1)
    assert (inside >= outside).all()
    assert trace.variation.amin() == 0 and trace.variation.amax() == 1  # Eq. 10
    count = (temporal_scale * trace.variation).ceil().long()
    assert torch.equal(trace.num_prompts, count)  # Eq. 11
    assert not trace.num_prompts[3].any()  # a still video


@torch.no_grad()
def test_ties_go_to_the_lower_patch():
    model = build()
    patches = torch.randn(1, 1, 16, 64)
    saliency = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 2, 0, 0, 0, 0])
    _, region = model.spatial(patches, saliency.expand(1, 1, 16))
    assert region[0, 0].nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 11]


@torch.no_grad()
def test_gaps_that_change_alike_all_get_every_prompt():
    frames = wild(1, 2)
    flicker = frames.repeat(1, 1, 3, 1, 1)  # A B A B A B
    model = build(num_spatial=0)
    model.temporal.scorer.conv.weight[:, :, [0, 2]] = 0  # no view of neighbouring gaps
    trace = model.trace(flicker)
    assert (trace.variation == 1).all() and (trace.num_prompts == 12).all()


@torch.no_grad()
def test_still_videos_and_images_are_what_they_are_without_temporal_prompts():
    full, spatial = build(), build(temporal_scale=0)
    spatial.spatial.load_state_dict(full.spatial.state_dict())
    for video in (still(2, 4), wild(2, 1)):
        torch.testing.assert_close(full(video), spatial(video), atol=1e-6, rtol=0)
    assert full.trace(wild(2, 1)).num_prompts.shape == (2, 0)


@torch.no_grad()
def test_forward_values_of_both_selections_are_the_same():
    soft, hard = build(), build(selection='hard')
    hard.load_state_dict(soft.state_dict())
    torch.testing.assert_close(soft(wild(2, 5)), hard(wild(2, 5)))
    frozen = [n for n, p in hard.named_parameters() if not p.requires_grad]
    assert sorted(n for n in frozen if 'clip.' not in n) == [
        f'{part}.scorer.{layer}.weight'
        for part in ('spatial', 'temporal')
        for layer in ('conv', 'down', 'up')
    ]


@torch.no_grad()
def test_literal_dynamics_stay_available():
    normalized, literal = build(), build(normalize_dynamics=False)
    literal.load_state_dict(normalized.state_dict())
    a, b = normalized.trace(wild(1, 3)), literal.trace(wild(1, 3))
    share = b.dynamics / b.dynamics.sum(-1, keepdim=True)
    torch.testing.assert_close(a.dynamics, share)
    torch.testing.assert_close(b.saliency, 0.4 * b.attention + 0.6 * b.dynamics)


def test_float64_is_never_narrowed():
    model = build().double()
    video = wild(2, 3).double()
    trace = model.trace(video)
    found = trace.attention, trace.dynamics, trace.saliency, trace.variation
    assert {x.dtype for x in (*found, model(video))} == {torch.float64}


@pytest.mark.parametrize(
    'option, message',
    [
        (dict(num_spatial=17), r'num_spatial=17 is outside \[0, 16\], the tower'),
        (dict(alpha=1.5), r'alpha=1.5 is outside \[0, 1\]'),
        (dict(beta=-1), r'beta=-1 is outside'),
        (dict(temporal_scale=-2), r'temporal_scale=-2 is outside'),
        (dict(attention='global'), r"attention='global' .* \('joint', 'frame'\)"),
        (dict(selection='soft'), r"selection='soft' is unknown; say one of"),
    ],
)
def test_arguments_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        build(**option)


def test_deep_prompts_need_a_prompt():
    with pytest.raises(ValueError, match='num_prompts=0 leaves nothing to train'):
        MODELS.build(dict(type='DeepPromptCLIPViT', clip=VIT, num_prompts=0))
