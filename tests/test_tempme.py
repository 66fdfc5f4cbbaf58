"""TempMe: its merging against a plain loop, what it costs, and its arguments."""

import pytest
import torch
import torch.nn.functional as F
from tiny import VIT, wild
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmstop.errors import ConfigError
from mmstop.methods import TempMeCLIPViT
from mmstop.methods.tempme import merge
from mmstop.registry import MODELS
from mmstop.towers.merging import clips_to_join

PAPER = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights=None)


def merge_by_hand(tokens, sizes, features, pairs):
    """Merge the patches of one clip: lists of (D,), of numbers and of features."""
    alike = {
        (i, j): float(F.cosine_similarity(features[i], features[j], 0))
        for i in range(0, len(tokens), 2)
        for j in range(1, len(tokens), 2)
    }
    best = {
        i: max(range(1, len(tokens), 2), key=lambda j: alike[i, j])
        for i in range(0, len(tokens), 2)
    }
    order = sorted(best, key=lambda i: -alike[i, best[i]])
    sums = [token * size for token, size in zip(tokens, sizes)]
    sizes = list(sizes)
    for i in order[: min(pairs, len(tokens) // 2)]:
        sums[best[i]] = sums[best[i]] + sums[i]
        sizes[best[i]] += sizes[i]
        sizes[i] = 0
    stay = [i for i in range(len(tokens)) if sizes[i]]
    return [sums[i] / sizes[i] for i in stay], [sizes[i] for i in stay]


def tempme_by_hand(model, video):
    """Embed one video, (3, T, H, W) -> (E,): clips are lists of tokens, in a loop."""
    clips = []  # [CLS tokens, patches, sizes] of each
    for tokens in model.embed(video[None])[0]:
        clips.append([[tokens[0]], [*tokens[1:]], [1.0] * (len(tokens) - 1)])
    first = min(model.joins)
    for i in range(model.depth):
        if i in model.joins:
            clips = join_by_hand(model, i, clips)
        for clip in clips:
            cls, patches, sizes = clip
            x = torch.stack(cls + patches)
            keys = list(model.mean_keys(i, torch.stack(patches)))
            weight = torch.tensor([1.0] * len(cls) + sizes).log()
            mask = weight.expand(len(x), -1)
            x = x + model.attend(i, x[None], None, mask)[0]
            patches = list(x[len(cls) :])
            pairs = model.pairs if i < first else int(len(patches) * model.ratio)
            patches, sizes = merge_by_hand(patches, sizes, keys, pairs)
            x = torch.stack([*x[: len(cls)], *patches])
            x = x + model.feed(i, x)
            clip[:] = [list(x[: len(cls)]), list(x[len(cls) :]), sizes]
    frames = torch.stack([cls for clip in clips for cls in clip[0]])
    return F.normalize(model.project(frames), dim=-1).mean(0)


def join_by_hand(model, i, clips):
    number = clips_to_join(len(clips), model.joins[i])
    table = model.positions[i - min(model.joins)]
    assert len(table) == len(clips)
    joined = []
    for start in range(0, len(clips), number):
        group = clips[start : start + number]
        features = [patch for _, patches, _ in group for patch in patches]
        places = table[start : start + number]
        cls = [c + p for (front, _, _), p in zip(group, places) for c in front]
        moved = [t + p for (_, patches, _), p in zip(group, places) for t in patches]
        sizes = [size for *_, some in group for size in some]
        pairs = int(len(features) * model.join_ratio)
        joined.append([cls, *merge_by_hand(moved, sizes, features, pairs)])
    return joined


@torch.no_grad()
def test_merging_equals_a_plain_loop_and_keeps_the_order():
    torch.manual_seed(0)
    for pairs in (0, 1, 4, 9):
        x, features = torch.randn(2, 3, 2 + 11, 8), torch.randn(2, 3, 11, 5)
        sizes = torch.randint(1, 4, (2, 3, 11)).float()
        merged, parts = merge(x, sizes, features, pairs)
        assert torch.equal(merged[:, :, :2], x[:, :, :2])
        assert torch.equal(parts.sum(-1), sizes.sum(-1))
        for b in range(2):
            for c in range(3):
                tokens, numbers = merge_by_hand(
                    list(x[b, c, 2:]), sizes[b, c].tolist(), features[b, c], pairs
                )
                torch.testing.assert_close(merged[b, c, 2:], torch.stack(tokens))
                assert parts[b, c].tolist() == numbers


@torch.no_grad()
@pytest.mark.parametrize('joins', [(2, 3), (3,)])
def test_tempme_equals_a_plain_loop_over_clips(joins):
    torch.manual_seed(0)
    tower = dict(VIT, lora=dict(rank=2))
    model = TempMeCLIPViT(tower, joins=joins).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    videos = wild(2, 6 if len(joins) == 2 else 3)
    expected = torch.stack([tempme_by_hand(model, video) for video in videos])
    torch.testing.assert_close(model(videos), expected, atol=1e-5, rtol=1e-4)


def test_joins_of_any_number_of_clips():
    found = [[clips_to_join(n, wanted) for n in (1, 2, 5, 8, 9)] for wanted in (2, 3)]
    assert found == [[1, 2, 5, 2, 3], [1, 2, 5, 4, 3]]


def test_positions_are_interpolated():
    """Twice as many clips as positions: each position serves two."""
    model = TempMeCLIPViT(VIT, joins=(2,))
    model.positions[0].data = torch.tensor([[0.0], [1.0]]).expand(2, 64).clone()
    x, sizes = torch.zeros(1, 4, 17, 64), torch.ones(1, 4, 16)
    joined, _ = model._join(1, x, sizes)
    assert joined[0, :, :2, 0].flatten().tolist() == [0, 0.25, 0.75, 1]


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(pairs=-1), 'pairs=-1, expected at least 0'),
        (dict(joins=(2, 1)), r'joins=\(2, 1\), expected numbers of at least 2'),
        (dict(joins=()), r'joins=\(\), expected'),
        (dict(ratio=0.6), r'ratio=0.6 is outside \[0, 0.5\]'),
        (dict(join_ratio=-0.1), r'join_ratio=-0.1 is outside'),
        (dict(clip=dict(VIT, merge=2)), 'clip.merge=2, but TempMe merges by its own'),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        TempMeCLIPViT(**{'clip': VIT, **options})


@torch.no_grad()
def test_an_adapter_inside_is_heard():
    inner = dict(type='DeepPromptCLIPViT', clip=VIT, num_prompts=2)
    model = TempMeCLIPViT(inner)
    before = model(wild(1, 6))
    model.clip.prompts.normal_()
    assert not torch.allclose(model(wild(1, 6)), before, atol=1e-3)


@torch.no_grad()
@pytest.mark.slow
def test_cost_on_the_paper_s_backbone():
    """The paper: 34.82 GMACs for 12 frames, 0.51 M parameters."""
    formula = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counted = {formula: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    model = TempMeCLIPViT(dict(PAPER, lora=dict(rank=8))).eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = MODELS.build(dict(PAPER, type='CLIPText', lora=dict(rank=8)))
    trained += sum(p.numel() for p in text.parameters() if p.requires_grad)
    assert trained == 507_648
    video = torch.randn(1, 3, 12, 224, 224)
    with FlopCounterMode(display=False, custom_mapping=counted) as mode:
        model(video)
    assert mode.get_total_flops() / 2e9 == pytest.approx(34.82, rel=0.02)
