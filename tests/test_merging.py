"""Token merging: what it may change and what it may not."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY, VIT, still, wild

from mmstop.registry import MODELS
from mmstop.towers.merging import PatchMerger


def slow_merge(tokens, sizes, pairs):
    """Merge the patches of one frame, pair by pair: lists of (D,) and of numbers."""
    if not pairs:
        return tokens, sizes
    first, second = list(range(0, len(tokens), 2)), list(range(1, len(tokens), 2))
    nearest = {
        i: max(
            second, key=lambda j: float(F.cosine_similarity(tokens[i], tokens[j], 0))
        )
        for i in first
    }
    likeness = {
        i: float(F.cosine_similarity(tokens[i], tokens[j], 0))
        for i, j in nearest.items()
    }
    order = sorted(first, key=lambda i: -likeness[i])
    total = {j: tokens[j] * sizes[j] for j in second}
    count = {j: sizes[j] for j in second}
    for i in order[:pairs]:
        total[nearest[i]] = total[nearest[i]] + tokens[i] * sizes[i]
        count[nearest[i]] += sizes[i]
    kept = order[pairs:]
    merged = [tokens[i] for i in kept] + [total[j] / count[j] for j in second]
    return merged, [sizes[i] for i in kept] + [count[j] for j in second]


def test_equals_a_slow_reference():
    torch.manual_seed(0)
    merger = PatchMerger(pairs=3, groups=2, patches=15)
    x = torch.randn(2, 5 + 30, 8)  # CLS and four prompts before two frames
    frames = [[list(frame) for frame in v[5:].split(15)] for v in x]
    sizes = [[[1] * 15, [1] * 15] for _ in x]
    rest = x[:, :5]
    for n in (12, 9, 6, 3, 2, 1, 1):  # fewer pairs where there are not three
        x = merger(x)
        pairs = len(frames[0][0]) - n
        for v in range(2):
            for t in range(2):
                frames[v][t], sizes[v][t] = slow_merge(frames[v][t], sizes[v][t], pairs)
        expected = torch.stack([torch.stack([*v[0], *v[1]]) for v in frames])
        torch.testing.assert_close(x[:, 5:], expected)
        assert torch.equal(x[:, :5], rest)
        assert merger.sizes.tolist() == sizes
        assert (merger.sizes.sum(-1) == 15).all()


def test_several_blocks_merge_at_once_in_as_few_rounds_as_possible():
    """So every token left is the mean of the patches that spreading gives it to."""
    torch.manual_seed(0)
    for blocks, rounds in (
        (1, [3]),
        (2, [6]),
        (3, [7, 2]),
        (4, [7, 4, 1]),
        (9, [7, 4, 2, 1]),
    ):
        merger = PatchMerger(pairs=3, groups=2, patches=15)
        x = torch.randn(1, 5 + 30, 8)
        frames = [list(frame) for frame in x[0, 5:].split(15)]
        sizes = [[1] * 15, [1] * 15]
        merged = merger(x, blocks)
        for t in range(2):
            for pairs in rounds:
                frames[t], sizes[t] = slow_merge(frames[t], sizes[t], pairs)
        expected = torch.stack([*frames[0], *frames[1]])
        torch.testing.assert_close(merged[0, 5:], expected)
        assert merger.sizes[0].tolist() == sizes
        spread = merger.spread(merged)
        assert torch.equal(spread[:, :5], x[:, :5])
        for patches, tokens in zip(x[0, 5:].split(15), spread[0, 5:].split(15)):
            for token in tokens.unique(dim=0):
                own = patches[(tokens == token).all(-1)]
                torch.testing.assert_close(own.mean(0), token)


def test_spreading_gives_each_patch_its_token():
    """Numbered patches, pairs of which are alike, so that who merged can be told."""
    torch.manual_seed(0)
    for n in (8, 9):
        pairs, patches = 3, torch.randn(2, 2, n, 8)
        for i in range(pairs):  # 0 and 1, 2 and 3, 4 and 5
            patches[:, :, 2 * i] = patches[:, :, 2 * i + 1] * (1 + 1e-3)
        x = torch.cat([torch.randn(2, 5, 8), patches.flatten(1, 2)], dim=1)
        merger = PatchMerger(pairs, groups=2, patches=n)
        spread = merger.spread(merger(x))
        assert torch.equal(spread[:, :5], x[:, :5])
        spread = spread[:, 5:].unflatten(1, (2, n))
        for i in range(pairs):
            pair = patches[:, :, 2 * i : 2 * i + 2]
            mean = pair.mean(2, keepdim=True).expand_as(pair)
            torch.testing.assert_close(spread[:, :, 2 * i : 2 * i + 2], mean)
        torch.testing.assert_close(spread[:, :, 6:], patches[:, :, 6:])


def test_attention_weighs_a_token_by_what_it_stands_for():
    """Merging equal patches changes nothing, since attention counts them as many."""
    plain, merging = (MODELS.build(dict(VIT, merge=m)) for m in (0, 3))
    for tower in (plain, merging):
        tower.visual.positional_embedding.data[1:] = 0  # now equal patches stay equal
    frames = torch.randn(2, 3, 4, 1, 1).expand(-1, -1, -1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(merging(frames), plain(frames), atol=1e-5, rtol=0)
        merging.embed = plain.embed  # so does a mask that counts each once
        counted_once = PatchMerger.mask
        PatchMerger.mask = lambda self, mask, x: None
        try:
            assert (merging(frames) - plain(frames)).abs().max() > 1e-4
        finally:
            PatchMerger.mask = counted_once


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
@pytest.mark.parametrize('num_spatial', [0, 2])
def test_tokens_of_every_block(attention, num_spatial, monkeypatch):
    """Fewer patches a block; CLS, prompts and the chosen region come through all."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='STOPCLIPViT',
            clip=dict(VIT, merge=2),
            num_spatial=num_spatial,
            attention=attention,
            depth=1,
        )
    )
    video, seen = torch.cat([wild(1, 5), still(1, 5)]), []
    attend = type(model.clip).attend

    def watch(self, i, x, context=None, mask=None):
        seen.append(x if context is None else context)
        return attend(self, i, x, context, mask)

    monkeypatch.setattr(type(model.clip), 'attend', watch)
    model(video)
    frames = 1 if attention == 'frame' else 5
    lengths = [x.shape[-2] for x in seen]
    assert [a - b for a, b in zip(lengths, lengths[1:])] == [2 * frames] * 2
    if num_spatial:
        region = model.trace(video).region
        made, _ = model._prompt(0, model.embed(video))
        prompted = made.patches[region].unflatten(0, (2, -1))
        first = seen[0].flatten(1, 2)
        for own, tokens in zip(prompted, first):
            safe = lengths[0] - frames * (16 - num_spatial)
            for patch in own:
                places = (tokens == patch).all(-1).nonzero().flatten()
                assert len(places) and (places % lengths[0] < safe).all()


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
def test_prompted_blocks_merge_for_themselves(attention, monkeypatch):
    """Prompts need the whole grid: block i merges i times as many, and undoes it."""
    torch.manual_seed(0)
    clip = dict(VIT, merge=2)
    model = MODELS.build(dict(type='STOPCLIPViT', clip=clip, attention=attention))
    plain = MODELS.build(dict(type='STOPCLIPViT', clip=VIT, attention=attention))
    plain.load_state_dict(model.state_dict())
    seen, fed = [], []
    tower = type(model.clip)
    attend, feed = tower.attend, tower.feed

    def watch(self, i, x, context=None, mask=None):
        seen.append((x.shape[-2], (x if context is None else context).shape[-2]))
        return attend(self, i, x, context, mask)

    monkeypatch.setattr(tower, 'attend', watch)
    monkeypatch.setattr(
        tower, 'feed', lambda self, i, x: fed.append(x.shape[-2]) or feed(self, i, x)
    )
    video = wild(1, 5)
    merged = model(video)
    frames = 1 if attention == 'frame' else 5
    assert [queries for queries, _ in seen] == [1 + frames * n for n in (16, 14)] + [1]
    assert fed == [queries for queries, _ in seen]
    block = model._prompted_block(1, model._before(1, video))
    whole = plain._prompted_block(1, plain._before(1, video))
    assert block.shape == whole.shape == (1, 5, 17, 64)
    assert F.cosine_similarity(block, whole, dim=-1).min() > 0.9
    assert not torch.equal(merged, plain(video))


def stop(**options):
    torch.manual_seed(0)
    options = {'clip': dict(VIT, merge=2), 'num_spatial': 2, **options}
    return MODELS.build(dict(type='STOPCLIPViT', **options)).eval()


def merged_by_hand(model, video, span):
    """STOP with prompts at the input, one video (1, 3, T, H, W), in plain lists."""
    clip = model.clip
    made, trace = model._prompt(0, model.embed(video))
    frames = list(zip(made.patches[0], trace.region[0]))
    safe = [patch for patches, region in frames for patch in patches[region]]
    free = [list(patches[~region]) for patches, region in frames]
    gaps = zip(made.prompts[0], trace.num_prompts[0])
    rest = [made.cls[0, 0, 0], *(p for gap, n in gaps for p in gap[:n]), *safe]
    groups = [
        [patch for place in zip(*free[t : t + span]) for patch in place]
        for t in range(0, len(free), span)
    ]
    sizes = [[1.0] * len(group) for group in groups]
    for i in range(clip.depth):
        x = torch.stack([*rest, *sum(groups, [])])[None]
        weight = torch.tensor([1.0] * len(rest) + sum(sizes, [])).log()[None]
        last = i == clip.depth - 1
        queries = x[:, :1] if last else x
        x = queries + clip.attend(i, queries, x, weight)
        if not last:
            tokens = list(x[0])
            rest, start = tokens[: len(rest)], len(rest)
            for g, group in enumerate(groups):
                own, start = tokens[start : start + len(group)], start + len(group)
                pairs = min(clip.merge * span, len(group) // 2)
                groups[g], sizes[g] = slow_merge(own, sizes[g], pairs)
            x = torch.stack([*rest, *sum(groups, [])])[None]
        x = x + clip.feed(i, x)
        if not last:
            tokens = list(x[0])
            rest, start = tokens[: len(rest)], len(rest)
            for g, group in enumerate(groups):
                groups[g] = tokens[start : start + len(group)]
                start += len(group)
    return F.normalize(clip.project(x[:, 0]), dim=1)


@torch.no_grad()
@pytest.mark.parametrize('merge_frames, T, span', [(1, 3, 1), (2, 4, 2), (2, 5, 5)])
def test_merging_over_frames_equals_plain_lists(merge_frames, T, span):
    model, video = stop(merge_frames=merge_frames, depth=1), wild(1, T)
    assert model.trace(video).num_prompts.any()
    expected = merged_by_hand(model, video, span)
    torch.testing.assert_close(model(video), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_stands_still_merges_over_time_and_loses_nothing():
    """Equal patches of two frames merge; attention counts them twice."""
    clip = dict(VIT, merge=6)
    plain, over = stop(clip=VIT), stop(clip=clip)
    pairs = stop(clip=clip, merge_frames=2)
    video = still(1, 4)
    torch.testing.assert_close(pairs(video), plain(video), atol=1e-5, rtol=0)
    assert (over(video) - plain(video)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize('attention', ['joint', 'frame'])
def test_nothing_merges_where_every_patch_is_prompted(attention):
    options, video = dict(num_spatial=16, attention=attention), wild(2, 3)
    whole = stop(clip=VIT, **options)(video)
    torch.testing.assert_close(stop(clip=dict(VIT, merge=4), **options)(video), whole)


def test_merging_over_frames_needs_frames_and_merging():
    message = r"merge_frames=2 with clip.merge={} and attention='{}' merges nothing"
    for merge, attention in ((0, 'joint'), (2, 'frame')):
        with pytest.raises(ValueError, match=message.format(merge, attention)):
            stop(clip=dict(VIT, merge=merge), attention=attention, merge_frames=2)
    with pytest.raises(ValueError, match='merge_frames=0 is outside'):
        stop(merge_frames=0)


def test_gradients_flow_through_merged_patches():
    model = MODELS.build(dict(type='STOPCLIPViT', clip=dict(VIT, merge=4)))
    video = wild(2, 4).requires_grad_()
    model(video).sum().backward()
    assert (video.grad.abs().amax((1, 2)) > 0).all()


@torch.no_grad()
def test_a_merged_tower_is_near_the_whole_one():
    clip = dict(type='CLIPViT', arch='ViT-moving-shapes', weights='mmstop')
    video = F.interpolate(wild(4, 3).flatten(0, 1), size=56).unflatten(0, (4, 3))
    whole = MODELS.build(clip)(video)
    near = [
        F.cosine_similarity(MODELS.build(dict(clip, merge=m))(video), whole).min()
        for m in (1, 6)
    ]
    assert near[0] > near[1] > 0.5
    assert near[0] > 0.9


def test_range_of_merge():
    for merge in (-1, 9):
        with pytest.raises(ValueError, match=rf'merge={merge} is outside \[0, 8\]'):
            MODELS.build(dict(type='CLIPViT', arch=TINY, weights=None, merge=merge))
