"""Methods with prompts in every block against slow references: full masks and loops."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT, VIT, wild

from mmstop.methods.vop import ContextPrompter
from mmstop.registry import MODELS

TOKENS = torch.tensor([[98, 5, 6, 7, 99, 0, 0], [98, 8, 99, 0, 0, 0, 0]])


def build(kind, clip=VIT, **options):
    torch.manual_seed(0)
    return MODELS.build(dict(type=kind, clip=clip, **options)).eval()


def strong(model):
    """Make what trains strong enough to show."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def flatten(x, prompts):
    """Put each frame's prompts behind its CLS, all frames in one sequence.

    (T, L, D), (T, P, D) -> (1, T (L + P), D).
    """
    return torch.cat([x[:, :1], prompts, x[:, 1:]], dim=1).flatten(0, 1)[None]


def unflatten(y, T, P):
    """Take the prompts out again: (1, T (L + P), D) -> (T, L, D)."""
    y = y[0].unflatten(0, (T, -1))
    return torch.cat([y[:, :1], y[:, 1 + P :]], dim=1)


def same_frame(T, L):
    """Tell which tokens are of the same frame: (T L, T L)."""
    frame = torch.arange(T).repeat_interleave(L)
    return frame[:, None] == frame


def block(tower, i, y, mask=None):
    y = y + tower.attend(i, y, mask=mask)
    return y + tower.feed(i, y)


def dgl_by_hand(model, video, temporal=None):
    """Run DGL on one video with all tokens in one sequence: (3, T, H, W) -> (E,)."""
    tower = model.clip
    x = tower.embed(video[None])[0]  # (T, 1 + N, D)
    across = model.global_prompts[None]
    T, G = len(x), across.shape[1]
    for i in range(tower.depth):
        prompts = model.prompter.frames()[i]
        prompts = torch.stack([prompts[t * len(prompts) // T] for t in range(T)])
        y = flatten(x, prompts)
        mask = F.pad(same_frame(T, y.shape[1] // T), (G, 0, G, 0), value=True)
        y = torch.cat([across, y], dim=1)
        if temporal is not None:  # everybody sees them, and nobody keeps them
            own = temporal[i][None]
            seen = torch.cat([own, x[None, :, 0]], dim=1)
            own = own + tower.attend(i, own, seen)
            y = torch.cat([own, y], dim=1)
            mask = F.pad(mask, (own.shape[1], 0, own.shape[1], 0), value=True)
        y = block(tower, i, y, mask)
        if temporal is not None:
            y = y[:, own.shape[1] :]
        across, x = y[:, :G], unflatten(y[:, G:], T, prompts.shape[1])
    return tower.project(across[0, 0])


@torch.no_grad()
@pytest.mark.parametrize(
    'prompter, T', [('linear', 1), ('linear', 4), ('transformer', 4)]
)
def test_dgl_is_one_sequence_with_a_global_and_local_mask(prompter, T):
    model = strong(build('DGLCLIPViT', prompter=prompter, num_frames=4))
    video = wild(2, T)
    expected = torch.stack([dgl_by_hand(model, one) for one in video])
    torch.testing.assert_close(model(video), expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_mpt_adds_prompts_that_read_all_cls_and_that_all_tokens_see():
    model, video = strong(build('MPTCLIPViT')), wild(2, 3)
    expected = [dgl_by_hand(model, one, model.temporal) for one in video]
    torch.testing.assert_close(
        model(video), torch.stack(expected), atol=1e-4, rtol=1e-3
    )


def vop_by_hand(model, video):
    """Run VoP on one video with all tokens in one sequence: (3, T, H, W) -> (E,)."""
    tower = model.clip
    x = tower.embed(video[None])[0]
    T = len(x)
    for i in range(model.frame_blocks):
        prompts = model.prompts[i].expand(T, -1, -1)
        if model.position is not None:
            prompts = torch.cat([prompts, model.position[i]], dim=1)
        if model.context is not None:
            prompts = torch.cat([prompts, model.context(x[None, :, 0])[0]], dim=1)
        y = flatten(x, prompts)
        y = block(tower, i, y, same_frame(T, y.shape[1] // T))
        x = unflatten(y, T, prompts.shape[1])
    if model.frame_places is not None:
        x = x + model.frame_places[:, None]
    for i in range(model.frame_blocks, tower.depth):  # nothing is hidden
        prompts = model.video_prompts[i - model.frame_blocks][None]
        y = block(tower, i, torch.cat([prompts, x.flatten(0, 1)[None]], dim=1))
        x = unflatten(y[:, prompts.shape[1] :], T, 0)
    return F.normalize(tower.project(x[:, 0]), dim=-1).mean(0)


VOP = [
    {},
    dict(position=True),
    dict(context=True),
    dict(function=True),
    dict(position=True, function=True),
    dict(context=True, function=True),
]


@torch.no_grad()
@pytest.mark.parametrize('flags', VOP, ids=lambda flags: '-'.join(flags) or 'base')
def test_vop_is_one_sequence_masked_by_frame_and_then_whole(flags):
    model = strong(build('VoPCLIPViT', num_frames=4, **flags))
    assert model.frame_blocks == (2 if 'function' in flags else 3)
    assert (model.frame_places is not None) == (flags == dict(function=True))
    video = wild(2, 4)
    expected = torch.stack([vop_by_hand(model, one) for one in video])
    torch.testing.assert_close(model(video), expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_context_prompts_come_from_a_bilstm():
    torch.manual_seed(0)
    prompter, cls = ContextPrompter(8, 2), torch.randn(3, 5, 8)
    lstm = torch.nn.LSTM(8, 8, bidirectional=True, batch_first=True)
    for end, cell in (('', prompter.onward), ('_reverse', prompter.back)):
        for name, value in cell.named_parameters():
            getattr(
                lstm, name.replace('_ih', '_ih_l0').replace('_hh', '_hh_l0') + end
            ).copy_(value)
    expected = prompter.out(lstm(cls)[0]).unflatten(-1, (2, 8))
    torch.testing.assert_close(prompter(cls), expected)


@torch.no_grad()
def test_upt_prompts_each_frame_with_its_own_tokens():
    model, video = strong(build('UPTCLIPViT', num_frames=3)), wild(2, 3)
    tower, prompts = model.clip, model.prompter.frames()
    expected = []
    for one in video:
        x = tower.embed(one[None])[0]
        for i in range(tower.depth):
            for t in range(3):  # the reference has a loop over frames
                y = block(tower, i, torch.cat([prompts[i, t], x[t]])[None])
                x[t] = y[0, prompts.shape[2] :]
        expected.append(F.normalize(tower.project(x[:, 0]), dim=-1).mean(0))
    torch.testing.assert_close(
        model(video), torch.stack(expected), atol=1e-4, rtol=1e-3
    )


def test_text_and_frame_prompts_come_from_one_block():
    model = build('UPTCLIPViT', num_prompts=2, num_frames=5)
    made = model.prompter.block(model.prompter.table)
    frames, text = model.prompter.frames(), model.text_prompts()
    assert frames.shape == (3, 5, 2, 64) and text.shape == (2, 4, 32)
    torch.testing.assert_close(frames[1, 4], made[1, -2:])
    torch.testing.assert_close(text[1], model.prompter.mlp(made[2, :4]))


@torch.no_grad()
def test_efficient_prompt_reads_frozen_frames():
    model, video = build('EfficientPromptCLIPViT', num_frames=4), wild(2, 4)
    frames = model.clip.project(model.clip.encode(model.clip.embed(video))[:, :, 0])
    expected = model.temporal(frames + model.places).mean(1)
    torch.testing.assert_close(model(video), expected)
    shuffled = model(video.flip(2))  # order counts
    assert not torch.allclose(shuffled, expected, atol=1e-3)


def efficient_text_by_hand(tower, vectors, ids, P):
    """Put learned vectors around the words of one text: (L,) -> (E,)."""
    end = int(ids.argmax())
    words = tower.token_embedding(ids)
    behind = vectors[end + P : end + 2 * P]
    parts = [words[:1], vectors[1 : P + 1], words[1:end], behind, words[end : end + 1]]
    x = torch.cat(parts)[None] + tower.positional_embedding[: end + 1 + 2 * P]
    for i in range(tower.depth):
        x = block(tower, i, x)
    return tower.project(x[0, -1])


@torch.no_grad()
@pytest.mark.parametrize('padding', [0, 5], ids=['room', 'padding is dropped'])
def test_efficient_prompt_moves_the_end_token_behind_prompts(padding):
    model = strong(build('EfficientPromptCLIPText', TEXT, num_prompts=4))
    ids = F.pad(TOKENS, (0, padding))
    expected = [
        efficient_text_by_hand(model.clip, model.vectors, one, 4) for one in ids
    ]
    torch.testing.assert_close(model(ids), torch.stack(expected))
    full = torch.tensor([[98, 5, 6, 7, 99]])
    torch.testing.assert_close(model(full), torch.stack(expected[:1]))
