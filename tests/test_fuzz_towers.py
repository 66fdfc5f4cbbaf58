"""Towers of random architectures against open_clip, attention against its formula."""

import json
import math
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from fuzz import draws, fuzz, seeds
from hypothesis import example
from hypothesis.strategies import (
    booleans,
    composite,
    floats,
    integers,
    none,
    sampled_from,
)

from mmstop.registry import MODELS
from mmstop.towers.weights import build_clip

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
FOLDER = tempfile.TemporaryDirectory()
ARCH = Path(FOLDER.name) / 'ViT-random.json'

SMALL = {
    'embed_dim': 8,
    'vision_cfg': {
        'image_size': [4, 4],
        'patch_size': 4,
        'head_width': 4,
        'width': 4,
        'layers': 1,
    },
    'text_cfg': {
        'context_length': 3,
        'vocab_size': 100,
        'width': 8,
        'heads': 1,
        'layers': 1,
    },
}

dtypes = sampled_from(list(TOLERANCE))


@composite
def archs(draw):
    """Draw an architecture in open_clip's form."""
    patch, head = draw(sampled_from([4, 7, 8])), draw(sampled_from([4, 8]))
    rows, columns = draw(integers(1, 4)), draw(integers(1, 4))
    text_heads = draw(integers(1, 3))
    return {
        'embed_dim': draw(sampled_from([8, 24])),
        'quick_gelu': draw(booleans()),
        'vision_cfg': {
            # The pixels that no patch covers are open_clip's to leave out.
            'image_size': [rows * patch + draw(integers(0, 3)), columns * patch],
            'patch_size': patch,
            'head_width': head,
            'width': head * draw(integers(1, 4)),
            'layers': draw(integers(1, 4)),
            'mlp_ratio': draw(sampled_from([1.0, 4.0])),
            'ls_init_value': draw(none() | floats(0.1, 2)),
        },
        'text_cfg': {
            'context_length': draw(integers(3, 12)),
            'vocab_size': 100,
            'width': 8 * text_heads,
            'heads': text_heads,
            'layers': draw(integers(1, 3)),
        },
    }


def build(kind, arch, **options):
    """Build a tower of ``arch`` through a file, as a user does."""
    ARCH.write_text(json.dumps(arch))
    return MODELS.build(dict(type=kind, arch=str(ARCH), weights=None, **options))


def video_for(arch, B, T, seed, dtype):
    return draws(seed)(B, 3, T, *arch['vision_cfg']['image_size'], dtype=dtype)


@fuzz(
    80, arch=archs(), B=integers(1, 3), T=integers(1, 5), seed=seeds, dtype=dtypes,
    checkpoint=booleans(),
)  # fmt: skip
def test_video_tower_is_open_clip(arch, B, T, seed, dtype, checkpoint):
    """Its embeddings are the same, and so are the gradients of the pixels."""
    tower = build('CLIPViT', arch, checkpoint=checkpoint).to(dtype)
    visual = build_clip(ARCH.stem, None).visual.to(dtype)
    video = video_for(arch, B, T, seed, dtype).requires_grad_()
    frames = [F.normalize(visual(video[:, :, t]), dim=-1) for t in range(T)]
    ours, theirs = tower(video), torch.stack(frames).mean(0)
    exact = dict(atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(ours, theirs, **exact)
    weights = draws(seed)(ours.shape, dtype=dtype)
    ours, theirs = (
        torch.autograd.grad(x, video, weights, retain_graph=True)[0]
        for x in (ours, theirs)
    )
    scale = theirs.abs().max()
    torch.testing.assert_close(ours / scale, theirs / scale, **exact)


@fuzz(40, arch=archs(), B=integers(1, 4), seed=seeds, dtype=dtypes)
@torch.no_grad()
def test_text_tower_is_open_clip_at_any_length(arch, B, seed, dtype):
    tower = build('CLIPText', arch).to(dtype)
    clip = build_clip(ARCH.stem, None).to(dtype)
    room, end = arch['text_cfg']['context_length'], 99
    ids = torch.zeros(B, room, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, room + 1, (B,), generator=generator).tolist()
    for row, length in zip(ids, lengths):
        row[: length - 1] = torch.randint(1, end, (length - 1,), generator=generator)
        row[length - 1] = end
    expected = clip.encode_text(ids)
    exact = dict(atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(tower(ids), expected, **exact)
    torch.testing.assert_close(tower(ids[:, : max(lengths)]), expected, **exact)


def written_out(block, x, context, mask):
    """Attend head by head: (..., L, D), (..., M, D) and a float mask -> (..., L, D)."""
    D, heads = x.shape[-1], block.attn.num_heads
    d = D // heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    q, k, v = (
        block.ln_1(y) @ weight[n * D : (n + 1) * D].T + bias[n * D : (n + 1) * D]
        for n, y in enumerate((x, context, context))
    )
    pieces = []
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        scores = q[..., own] @ k[..., own].transpose(-2, -1) / math.sqrt(d) + mask
        shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
        pieces.append(shares @ v[..., own])
    out = torch.cat(pieces, dim=-1)
    return block.ls_1(out @ block.attn.out_proj.weight.T + block.attn.out_proj.bias)


@fuzz(
    100, arch=archs(), B=integers(1, 3), T=integers(1, 3), L=integers(1, 6),
    M=none() | integers(1, 7), kind=sampled_from([None, 'bool', 'float']),
    shape=sampled_from(['M', '1M', 'LM', '1LM', 'T1M', 'B11M', 'BT1M', 'BTLM']),
    seed=seeds, dtype=dtypes,
)  # fmt: skip
@example(
    arch=SMALL, B=1, T=1, L=1, M=None, kind='bool', shape='M', seed=0,
    dtype=torch.float32,
)  # fmt: skip
@torch.no_grad()
def test_attention_is_its_formula(arch, B, T, L, M, kind, shape, seed, dtype):
    """For any context and any mask that leaves each query something to see."""
    tower = build('CLIPViT', arch).to(dtype)
    randn, i = draws(seed), arch['vision_cfg']['layers'] - 1
    x = randn(B, T, L, tower.width, dtype=dtype)
    context = None if M is None else randn(B, T, M, tower.width, dtype=dtype)
    sizes = {'B': B, 'T': T, 'L': L, 'M': M or L, '1': 1}
    seen = randn(*(sizes[letter] for letter in shape)) > 0
    seen[..., 0] = True
    seen[..., 1:] &= randn(seen.shape[-1] - 1) > -1  # padding, which no query sees
    bias = randn(seen.shape, dtype=dtype) if kind == 'float' else torch.zeros(1)
    bias = bias.to(dtype).masked_fill(~seen, -torch.inf) if kind else 0
    mask = {None: None, 'bool': seen, 'float': bias}[kind]
    found = tower.attend(i, x, context, mask)
    expected = written_out(tower.blocks[i], x, x if M is None else context, bias)
    exact = dict(atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(found, expected, **exact)


@fuzz(30, arch=archs(), L=integers(1, 6), M=integers(0, 6), seed=seeds, dtype=dtypes)
@torch.no_grad()
def test_text_attends_to_what_came_before(arch, L, M, seed, dtype):
    """The queries stand at the end of their context, as many as one likes."""
    tower = build('CLIPText', arch).to(dtype)
    x = draws(seed)(2, M + L, tower.width, dtype=dtype)
    future = torch.ones(M + L, M + L).triu(1).bool()
    bias = torch.zeros(M + L, M + L, dtype=dtype).masked_fill(future, -torch.inf)
    expected = written_out(tower.blocks[0], x, x, bias)[:, M:]
    exact = dict(atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(tower.attend(0, x[:, M:], x), expected, **exact)


@fuzz(60, arch=archs(), B=integers(1, 3), T=integers(1, 4), seed=seeds, dtype=dtypes)
@example(arch=SMALL, B=1, T=1, seed=0, dtype=torch.float64)
@torch.no_grad()
def test_what_is_left_out_is_not_read(arch, B, T, seed, dtype):
    """The last block for CLS alone, and CLS's own attention, equal the whole ones."""
    tower = build('CLIPViT', arch).to(dtype)
    x = tower.embed(video_for(arch, B, T, seed, dtype))
    exact = dict(atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    block = tower.blocks[0]
    cls, patches = x[:, :, :1].flatten(0, 1), x[:, :, 1:].flatten(0, 1)
    cls, patches = block.ln_1(cls), block.ln_1(patches)
    _, shares = block.attn(cls, patches, patches)
    found = tower.cls_attention(0, x).flatten(0, 1)
    torch.testing.assert_close(found, shares[:, 0], **exact)
    whole = x
    for i in range(tower.depth):
        whole = whole + tower.attend(i, whole)
        whole = whole + tower.feed(i, whole)
    torch.testing.assert_close(tower.encode(x), whole[:, :, :1], **exact)
