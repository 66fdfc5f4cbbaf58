"""STOP with random options on random batches: the slow reference and invariants."""

from unittest import mock

import pytest
import torch
from fuzz import draws, fuzz, seeds
from hypothesis import example
from hypothesis.strategies import (
    booleans,
    fixed_dictionaries,
    floats,
    integers,
    lists,
    permutations,
    sampled_from,
)
from stop_reference import by_hand
from tiny import VIT

from mmstop.registry import MODELS
from mmstop.towers.merging import PatchMerger

DTYPES = {torch.float32: 1e-5, torch.float64: 1e-9}
KINDS = {  # what a video may be, from its frames (3, T, H, W) of noise
    'wild': lambda x: x,
    'still': lambda x: x[:, :1].expand_as(x),
    'still in the end': lambda x: x[:, [min(t, 1 + x.shape[1] // 2) for t in steps(x)]],
    'there and back': lambda x: x[:, [min(t, x.shape[1] - 1 - t) for t in steps(x)]],
    'flicker': lambda x: x[:, [t % 2 for t in steps(x)]] if x.shape[1] > 1 else x,
    'faint': lambda x: x[:, :1] + 1e-3 * x,
    'dark': lambda x: 1e-6 * x,
    'black': lambda x: 0 * x,
    'glaring': lambda x: 1e6 * x,
}


def steps(video):
    return range(video.shape[1])


options = fixed_dictionaries(
    {
        'num_spatial': sampled_from([0, 1, 6, 15, 16]),
        'temporal_scale': integers(0, 16),
        'alpha': floats(0, 1),
        'beta': floats(0, 8),
        'attention': sampled_from(['joint', 'frame']),
        'selection': sampled_from(['straight_through', 'hard']),
        'normalize_dynamics': booleans(),
        'depth': sampled_from([1, 2, None]),
        'prompter': sampled_from(['linear', 'linear', 'figure']),
        'strength': sampled_from([None, 0.1]),
    }
)
NONE = dict(num_spatial=0, temporal_scale=0, attention='joint')
kinds = lists(sampled_from(list(KINDS)), min_size=1, max_size=4)
dtypes = sampled_from(list(DTYPES))


def build(options, merge=0, dtype=torch.float32):
    torch.manual_seed(0)
    clip = dict(VIT, merge=merge)
    model = MODELS.build(dict(type='STOPCLIPViT', clip=clip, **options))
    return model.eval().to(dtype)


def batch(kinds, T, seed, dtype=torch.float32):
    """Make a video of each kind: (B, 3, T, 32, 32)."""
    randn = draws(seed)
    return torch.stack([KINDS[k](randn(3, T, 32, 32, dtype=dtype)) for k in kinds])


def near(found, expected, tolerance):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@fuzz(80, options=options, kinds=kinds, T=integers(1, 9), seed=seeds, dtype=dtypes)
@example(options=NONE, kinds=['wild'], T=1, seed=0, dtype=torch.float64)
@torch.no_grad()
def test_equals_the_equations(options, kinds, T, seed, dtype):
    model, videos = build(options, dtype=dtype), batch(kinds, T, seed, dtype)
    embeddings = model(videos)
    traces = [model.trace(videos, i) for i in range(model.prompted_blocks)]
    for b, video in enumerate(videos):
        embedding, blocks = by_hand(model, video)
        for trace, chosen in zip(traces, blocks):
            near(trace.dynamics[b], chosen.dynamics, DTYPES[dtype])
            near(trace.saliency[b], chosen.saliency, DTYPES[dtype])
            assert torch.equal(trace.region[b], chosen.region)
            near(trace.variation[b], chosen.variation, 100 * DTYPES[dtype])
            assert trace.num_prompts[b].tolist() == chosen.counts
        near(embeddings[b], embedding, DTYPES[dtype])


@fuzz(
    80, options=options, kinds=kinds, T=integers(1, 9), seed=seeds, dtype=dtypes,
    merge=sampled_from([0, 0, 3]), order=permutations(range(4)),
)  # fmt: skip
@torch.no_grad()
def test_a_video_does_not_depend_on_its_batch(
    options, kinds, T, seed, dtype, merge, order
):
    """Alone, in another order or beside others, whose prompts bring padding."""
    model, videos = build(options, merge, dtype), batch(kinds, T, seed, dtype)
    order = [i for i in order if i < len(kinds)]
    together = model(videos)
    near(model(videos[order]), together[order], DTYPES[dtype])
    alone = torch.cat([model(video[None]) for video in videos])
    near(alone, together, DTYPES[dtype])
    with mock.patch('torch.compiler.is_compiling', return_value=True):
        near(model(videos), together, DTYPES[dtype])  # prompts unpacked, all padding


@fuzz(80, options=options, kinds=kinds, T=integers(1, 9), seed=seeds)
@torch.no_grad()
def test_trace_satisfies_the_equations(options, kinds, T, seed):
    trace = build(options).trace(batch(kinds, T, seed))
    spatial, eta = options['num_spatial'], options['temporal_scale']
    B = len(kinds)
    assert trace.region.shape == (B, T, 16) and trace.num_prompts.shape == (B, T - 1)
    near(trace.attention.sum(-1), torch.ones(B, T), 1e-5)
    assert (trace.attention >= 0).all() and (trace.dynamics >= 0).all()
    if spatial:
        if options['normalize_dynamics']:
            near(trace.dynamics.sum(-1), torch.ones(B, T), 1e-5)
        alpha = options['alpha']
        mixed = alpha * trace.attention + (1 - alpha) * trace.dynamics
        near(trace.saliency, mixed, 1e-6)
    ranked = trace.saliency.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(trace.region).scatter(-1, ranked[..., :spatial], True)
    assert torch.equal(trace.region, chosen)
    variation = trace.variation
    assert (variation >= 0).all() and (variation <= 1).all()
    assert torch.equal(trace.num_prompts, (eta * variation).ceil().long())
    for kind, own in zip(kinds, variation):
        if kind in ('still', 'black') or not eta:
            assert not own.any()
        elif T > 1 and kind == 'wild':
            assert own.max() == 1 and (T == 2 or own.min() == 0)


@fuzz(
    60, options=options, kinds=kinds, T=integers(1, 6), seed=seeds,
    merge=integers(0, 8),
)  # fmt: skip
@torch.no_grad()
def test_merging_keeps_what_it_must(options, kinds, T, seed, merge):
    model, videos = build(options, merge), batch(kinds, T, seed)
    merges, unmerged = [], PatchMerger.__call__

    def watch(merger, x, blocks=1):
        before, rest = merger.patches, x.shape[-2] - merger.groups * merger.patches
        merged = unmerged(merger, x, blocks)
        left = before
        for _ in range(blocks):
            left -= min(merger.pairs, left // 2)
        pairs = before - left
        assert merger.pairs % merge == 0
        assert merger.patches == left
        assert merged.shape[-2] == rest + merger.groups * merger.patches
        assert torch.equal(merged[..., :rest, :], x[..., :rest, :])
        merges.append((rest, merger.sizes))
        if pairs:
            assert merger.spread(merged).shape == x.shape
        return merged

    with mock.patch.object(PatchMerger, '__call__', watch):
        found = model(videos)
    assert found.isfinite().all()
    if not merge:
        assert not merges
        return
    frames = T if options['attention'] == 'joint' else 1
    free = 16 - options['num_spatial']
    for rest, sizes in merges:
        assert rest >= 1 + frames * options['num_spatial']
        if sizes is not None:
            near(sizes.sum(-1), torch.full(sizes.shape[:-1], float(free)), 1e-6)


@pytest.mark.filterwarnings('ignore:.*autocast')
@fuzz(40, options=options, kinds=kinds, T=integers(1, 6), seed=seeds)
def test_half_precision_stays_finite(options, kinds, T, seed):
    """The embeddings, and the gradients of all that learns."""
    model, videos = build(options).train(), batch(kinds, T, seed)
    with torch.autocast('cpu', torch.bfloat16):
        embeddings = model(videos)
    assert embeddings.isfinite().all()
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not learning:
        return
    embeddings.float().square().sum().backward()
    for name, parameter in learning.items():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
