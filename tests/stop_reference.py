"""A slow reference of STOP, written from the equations, one video at a time."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


class Gate(torch.autograd.Function):
    """One whatever the score; the score gets what the gate gets, as it is."""

    @staticmethod
    def forward(ctx, score):
        return torch.ones_like(score)

    @staticmethod
    def backward(ctx, grad):
        return grad


@dataclass
class Chosen:
    """What is chosen at the input of one block."""

    dynamics: torch.Tensor
    saliency: torch.Tensor
    region: torch.Tensor
    variation: torch.Tensor
    counts: list


def convolve(conv, x, grid):
    """A 3D convolution with plain loops: (T, N, C) -> (T, N', C')."""
    T = len(x)
    weight = conv.weight  # (C', C, frames, height, width)
    z = x.permute(2, 0, 1).unflatten(2, grid)
    if weight.shape[2] == 3:
        z = torch.cat([z[:, :1], z, z[:, -1:]], dim=1)  # repeat first and last frame
    if weight.shape[3:] == (3, 3):
        z = F.pad(z, (1, 1, 1, 1))
    depth, height, width = weight.shape[2:]
    steps = [
        (t, r, c)
        for t in range(T)
        for r in range(z.shape[2] - height + 1)
        for c in range(z.shape[3] - width + 1)
    ]
    out = [
        (weight * z[:, t : t + depth, r : r + height, c : c + width]).sum((1, 2, 3, 4))
        for t, r, c in steps
    ]
    out = torch.stack(out).unflatten(0, (T, -1))
    return out if conv.bias is None else out + conv.bias


def score(scorer, x):
    """N^s or N^t: (T, N, D) -> (T, N, D)."""
    return convolve(scorer.conv, x @ scorer.down.weight.T, scorer.grid) @ (
        scorer.up.weight.T
    )


def spatial_prompt(prompter, h, i, j, context):
    """p_ij^s, Eq. 1: (D,)."""
    if prompter.context is None:
        before, after = h[max(i - 1, 0), j], h[min(i + 1, len(h) - 1), j]
        prompt = prompter.prompter(torch.cat([before, h[i, j], after]))
    else:
        first, relu, last, _ = prompter.prompter
        prompt = last(relu(first(context[i, j])))
    if prompter.strength is not None:
        limit = prompter.strength * h.detach().norm(dim=-1).mean()
        length = prompt.norm()
        prompt = prompt / length * limit * torch.tanh(length / limit)
    return prompt


def spatial_reference(prompter, h, attention):
    """Eq. 1 to 7 for one video: tokens (T, N, D), A (T, N)."""
    T, N, D = h.shape
    prompted, region = list(h.flatten(0, 1)), torch.zeros(T, N, dtype=torch.bool)
    if prompter is None:
        return h.new_zeros(T, N), h.new_zeros(T, N), h, region
    M = (score(prompter.scorer, h) ** 2).mean(-1)
    if prompter.normalize_dynamics:
        M = M / M.sum(-1, keepdim=True)
    W = prompter.alpha * attention + (1 - prompter.alpha) * M
    context = None
    if (convs := prompter.context) is not None:
        context = convolve(convs.frames, convs.down(h), convs.grid).relu()
        context = convolve(convs.patches, context, convs.grid)
    for i in range(T):
        ranked = sorted(range(N), key=lambda j: (-W[i, j].item(), j))
        for j in ranked[: prompter.num_spatial]:
            region[i, j] = True
            prompt = spatial_prompt(prompter, h, i, j, context)
            if prompter.gated:
                prompt = Gate.apply(W[i, j]) * prompt
            prompted[i * N + j] = h[i, j] + prompt
    return M, W, torch.stack(prompted).view(T, N, D), region


def gap_features(trunk, change):
    """P^t up to its last layer: (T - 1, N, D) -> (T - 1, hidden)."""
    if isinstance(trunk, torch.nn.Sequential):
        return torch.stack([trunk(gap) for gap in change])
    x = trunk.down(change)
    q, k, v = trunk.qkv(x).flatten(0, 1).chunk(3, dim=-1)
    seen = (q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v
    x = convolve(trunk.gaps, x + seen.view_as(x), trunk.grid).relu()
    return convolve(trunk.patches, x, trunk.grid)[:, 0]


def energy_reference(prompter, h, region):
    """Eq. 8 to 10 for one video, before it is brought to [0, 1]: (T - 1,)."""
    change = h[1:] - h[:-1]
    E = score(prompter.scorer, change)
    return torch.stack(
        [
            ((1 + prompter.beta * region[i + 1]) * (E[i] ** 2).sum(-1)).sum()
            / (h.shape[1] * h.shape[2])
            for i in range(len(change))
        ]
    )


def temporal_reference(prompter, h, region, span=None):
    """Eq. 8 to 12 for one video: W^t, N^t and each gap's prompts.

    Args:
        span: the least and the greatest energy of the batch; None for the video's own.
    """
    gaps = len(h) - 1
    if prompter is None or not gaps:
        return h.new_zeros(gaps), [0] * gaps, [h.new_zeros(0, h.shape[2])] * gaps
    change = h[1:] - h[:-1]
    energy = energy_reference(prompter, h, region)
    low, high = span or (energy.min(), energy.max())
    if energy.max() < 1e-6 * (h**2).mean():
        W = torch.zeros_like(energy)
    elif high - low <= 1e-4 * high:
        W = torch.ones_like(energy)
    else:
        W = (energy - low) / (high - low)
        W = torch.where(W < 1e-6, 0 * W, W)
    counts, prompts = [], []
    features = gap_features(prompter.trunk, change)
    for i, w in enumerate(W):
        n = math.ceil(prompter.temporal_scale * w.item())
        start = sum(range(n))  # the layers before the n-th give 1 + 2 + .. tokens
        tokens = prompter.bank(features[i]).unflatten(0, (-1, h.shape[2]))
        tokens = tokens[start : start + n]
        counts.append(n)
        prompts.append(Gate.apply(w) * tokens if prompter.gated else tokens)
    return W, counts, prompts


def energy_at_the_input(model, video):
    """The energies of a video (3, T, H, W) at the first block: (T - 1,)."""
    tokens = model.clip.embed(video[None])[0]
    A = model.clip.cls_attention(0, tokens)
    _, _, h, region = spatial_reference(model.spatial, tokens[:, 1:], A)
    return energy_reference(model.temporal, h, region)


def by_hand(model, video, span=None):
    """The whole of STOP for one video (3, T, H, W), with open_clip's own blocks.

    Args:
        span: as in :func:`temporal_reference`, for ``depth=1``.

    Returns:
        the embedding (E,) and what is chosen at the input of each prompted block.
    """
    clip, joint = model.clip, model.attention == 'joint'
    visual = clip.visual
    tokens = clip.embed(video[None])[0]
    cls, h = list(tokens[:, 0]), tokens[:, 1:]
    T, N, D = h.shape
    chosen = []
    prompts = [h.new_zeros(0, D)] * (T - 1)
    for i, block in enumerate(visual.transformer.resblocks):
        if i < model.prompted_blocks:
            frames = torch.stack([torch.cat([cls[t][None], h[t]]) for t in range(T)])
            A = clip.cls_attention(i, frames)
            M, W, h, region = spatial_reference(model.spatial, h, A)
            Wt, counts, prompts = temporal_reference(model.temporal, h, region, span)
            chosen.append(Chosen(M, W, region, Wt, counts))
        if joint:
            sizes = [1, *[N] * T, *map(len, prompts)]
            x = block(torch.cat([cls[0][None], *h, *prompts])[None])[0].split(sizes)
            cls, h, prompts = [x[0][0]] * T, torch.stack(x[1 : 1 + T]), x[1 + T :]
        else:
            before = [h.new_zeros(0, D), *prompts]  # no gap before the first frame
            out = [
                block(torch.cat([cls[t][None], h[t], before[t]])[None])[0]
                for t in range(T)
            ]
            cls, h = [x[0] for x in out], torch.stack([x[1 : 1 + N] for x in out])
            prompts = [x[1 + N :] for x in out[1:]]
    pooled = [F.normalize(visual.ln_post(x) @ visual.proj, dim=0) for x in cls]
    return torch.stack(pooled).mean(0), chosen
