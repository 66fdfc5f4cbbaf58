"""STOP against a slow reference written from the equations, one video at a time."""

import pytest
import torch
import torch.nn.functional as F
from stop_reference import by_hand, energy_at_the_input
from tiny import VIT, still, wild

from mmstop.registry import MODELS


def build(**options):
    torch.manual_seed(0)
    return MODELS.build(dict(type='STOPCLIPViT', **{'clip': VIT, **options})).eval()


def assert_equals_the_equations(model, videos):
    embeddings = model(videos)
    traces = [model.trace(videos, i) for i in range(model.prompted_blocks)]
    for b, video in enumerate(videos):
        embedding, blocks = by_hand(model, video)
        torch.testing.assert_close(embeddings[b], embedding, atol=1e-5, rtol=1e-4)
        assert len(blocks) == len(traces)
        for trace, chosen in zip(traces, blocks):
            torch.testing.assert_close(trace.dynamics[b], chosen.dynamics)
            torch.testing.assert_close(trace.saliency[b], chosen.saliency)
            assert torch.equal(trace.region[b], chosen.region)
            near = dict(atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(trace.variation[b], chosen.variation, **near)
            assert trace.num_prompts[b].tolist() == chosen.counts


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
@pytest.mark.parametrize(
    'depth, T', [(1, 1), (1, 2), (1, 5), (2, 4), (None, 1), (None, 2), (None, 5)]
)
def test_equals_the_equations(depth, attention, T):
    model = build(depth=depth, attention=attention)
    assert model.prompted_blocks == (depth or 3)
    assert_equals_the_equations(model, torch.cat([wild(2, T), still(1, T)]))


@torch.no_grad()
@pytest.mark.parametrize(
    'options',
    [dict(prompter='figure'), dict(strength=0.01), dict(strength=0.5, depth=2)],
    ids=str,
)
@pytest.mark.parametrize('T', [1, 4])
def test_equals_the_equations_with_other_options(options, T):
    model = build(**options)
    assert_equals_the_equations(model, torch.cat([wild(1, T), still(1, T)]))


@pytest.fixture
def across_batch():
    with pytest.warns(UserWarning, match='depends on the other videos in its batch;'):
        return build(depth=1, normalize_variation='batch')


@torch.no_grad()
@pytest.mark.parametrize('T', [2, 5])
def test_variation_across_the_batch_equals_the_equations(across_batch, T):
    """In training as in evaluation, with a slow, a fast and a still video."""
    videos = torch.cat([0.4 * wild(1, T), wild(1, T, seed=1), still(1, T)])
    energies = torch.stack([energy_at_the_input(across_batch, v) for v in videos])
    span = energies.min(), energies.max()
    embeddings = across_batch(videos)
    trace = across_batch.trace(videos)
    for b, video in enumerate(videos):
        embedding, (chosen,) = by_hand(across_batch, video, span)
        torch.testing.assert_close(embeddings[b], embedding, atol=1e-5, rtol=1e-4)
        near = dict(atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(trace.variation[b], chosen.variation, **near)
        assert trace.num_prompts[b].tolist() == chosen.counts
    assert trace.variation.max() == trace.variation[1].max() == 1  # of the fast one
    assert 0 < trace.variation[0].max() < 1
    assert not trace.num_prompts[2].any()
    assert torch.equal(across_batch.train()(videos), embeddings)


@torch.no_grad()
def test_variation_across_a_batch_of_one_is_that_within_the_video(across_batch):
    within = build(depth=1)
    assert not torch.equal(across_batch(wild(2, 4)), within(wild(2, 4)))
    for video in (wild(1, 4), still(1, 4), wild(1, 1)):
        assert torch.equal(across_batch(video), within(video))


@torch.no_grad()
@pytest.mark.parametrize(
    'attention, merge, embeddings',
    [
        ('joint', 0, [[0.097341, 0.219604, 0.075996], [0.131705, 0.196771, 0.050797]]),
        ('joint', 2, [[0.094172, 0.217865, 0.080569], [0.134493, 0.209627, 0.051281]]),
        ('frame', 0, [[0.113314, 0.208299, 0.07392], [0.135318, 0.190927, 0.051413]]),
        ('frame', 2, [[0.109107, 0.207928, 0.078327], [0.135957, 0.19423, 0.050545]]),
    ],
)
def test_depth_of_one_is_what_prompts_at_the_input_were(attention, merge, embeddings):
    """Values that the package gave before it had ``depth``."""
    clip = dict(VIT, merge=merge)
    model = build(clip=clip, attention=attention, depth=1)
    videos = torch.cat([wild(1, 5), still(1, 5)])
    found, expected = model(videos)[:, :3], torch.tensor(embeddings)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert model.trace(videos).num_prompts.tolist() == [[4, 7, 12, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    'options',
    [
        dict(depth=1),
        dict(depth=2, attention='frame'),
        dict(depth=3),
        dict(prompter='figure', strength=0.1, depth=2),
    ],
    ids=str,
)
def test_gradients_equal_those_of_the_equations(options):
    """In sign and size, those that the scorers get through the choices too."""
    model = build(**options).double()
    video, weight = wild(1, 4).double(), torch.linspace(-1, 1, 32).double()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    slow = torch.autograd.grad(by_hand(model, video[0])[0] @ weight, trained.values())
    fast = torch.autograd.grad(model(video)[0] @ weight, trained.values())
    for name, expected, found in zip(trained, slow, fast):
        assert expected.abs().sum() > 0, name
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-6, msg=name)


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
    assert torch.equal(soft(wild(2, 5)), hard(wild(2, 5)))
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


# --- Constants and parts ------------------------------------------------------------


def variation_of(*frames):
    """W^t of a video whose patches all have one value a frame, changes unfiltered."""
    prompter = build().double().temporal
    prompter.scorer.forward = lambda change: change.square().mean(-1)
    patches = torch.tensor(frames).double().view(1, -1, 1, 1).expand(-1, -1, 16, 64)
    region = torch.zeros(patches.shape[:3], dtype=torch.bool)
    return prompter(patches, region)[1][0].tolist()


def test_thresholds_of_variation():
    """Its square counts: a change by 1e-3 is 1e-6 of a mean square of 1."""
    assert variation_of(1, 1, 1 + 0.99e-3) == [0, 0]
    assert variation_of(1, 1, 1 + 1.01e-3) == [0, 1]
    assert variation_of(0, 1, 1 + (1 - 0.9e-4) ** 0.5) == [1, 1]
    assert variation_of(0, 1, 1 + (1 - 1.1e-4) ** 0.5) == [1, 0]
    assert variation_of(1, 1, 1 + 0.9e-3, 2 + 0.9e-3) == [0, 0, 1]
    assert variation_of(1, 1, 1 + 1.1e-3, 2 + 1.1e-3)[1] == pytest.approx(
        1.21e-6, rel=1e-3
    )


@pytest.mark.parametrize('prompter', ['linear', 'figure'])
def test_prompts_start_small_and_not_at_zero(prompter):
    model = build(prompter=prompter)
    for layer in (model.spatial.prompter[2], model.temporal.bank):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(layer.weight.mean()) < 1e-3
        assert not layer.bias.any()


@torch.no_grad()
def test_the_figure_s_spatial_prompts_see_neighbours_only():
    context = build(prompter='figure').spatial.context
    patches = torch.randn(1, 6, 16, 64)
    before = context(patches)
    patches[:, 2] += 1
    changed = (context(patches) != before).flatten(2).any(-1)
    assert changed.tolist() == [[False, True, True, True, False, False]]


@torch.no_grad()
def test_the_figure_drops_prompts_in_training_only():
    video = wild(1, 4)
    for prompter, alike in (('figure', False), ('linear', True)):
        model = build(prompter=prompter).train()
        assert torch.equal(model(video), model(video)) == alike
        assert torch.equal(model.eval()(video), model(video))


@torch.no_grad()
def test_strength_bounds_each_spatial_prompt_by_its_own_video():
    model = build(strength=0.3, selection='hard').spatial
    model.prompter[2].weight.mul_(1e4)
    patches = torch.randn(2, 4, 16, 64) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1)
    prompted, region = model(patches, torch.rand(2, 4, 16))
    prompts = (prompted - patches)[region].view(2, -1, 64)
    limit = 0.3 * patches.norm(dim=-1).mean((1, 2))
    torch.testing.assert_close(prompts.norm(dim=-1), limit[:, None].expand(2, 24))


@torch.no_grad()
@pytest.mark.parametrize('attention, T, S', [('joint', 5, 1), ('frame', 1, 5)])
def test_replaced_prompts_are_keys_and_values_only(attention, T, S, monkeypatch):
    """Where the next block has prompts of its own, nothing is computed for them."""
    model, seen = build(depth=2, attention=attention), []
    tower = type(model.clip)
    attend, feed = tower.attend, tower.feed

    def watch(self, i, x, context=None, mask=None):
        keys = (x if context is None else context).shape[1:3]
        seen.append((i, tuple(x.shape[1:3]), tuple(keys)))
        return attend(self, i, x, context, mask)

    monkeypatch.setattr(tower, 'attend', watch)
    monkeypatch.setattr(
        tower,
        'feed',
        lambda self, i, x: seen.append(tuple(x.shape[1:3])) or feed(self, i, x),
    )
    model(wild(1, 5))
    first, fed, second, carried, last, cls = seen
    plain = (S, 1 + T * 16)
    assert first[:2] == (0, plain) and fed == plain and first[2] > plain
    assert second[1] == second[2] == carried > plain
    assert last[1:] == ((S, 1), carried) and cls == (S, 1)


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
        (dict(selection='soft'), r"selection='soft' is unknown; use one of"),
        (dict(prompter='mlp'), r"prompter='mlp' .* \('linear', 'figure'\)"),
        (dict(normalize_variation=''), r"variation='' .* \('video', 'batch'\)"),
        (dict(depth=0), r"depth=0 is outside \[1, 3\], the tower's blocks"),
        (dict(depth=4), r"depth=4 is outside \[1, 3\], the tower's blocks"),
        (dict(strength=0.0), 'strength=0.0 is not positive; set None for no bound'),
    ],
)
def test_arguments_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        build(**option)


def test_blocks_without_prompts_have_no_trace():
    with pytest.raises(
        ValueError, match=r'block=2 is outside \[0, 1\], the blocks tha'
    ):
        build(depth=2).trace(wild(1, 2), block=2)


def test_deep_prompts_need_a_prompt():
    with pytest.raises(ValueError, match='num_prompts=0 leaves nothing to train'):
        MODELS.build(dict(type='DeepPromptCLIPViT', clip=VIT, num_prompts=0))
