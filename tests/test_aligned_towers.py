"""UniPT and DiscoVLA against slow references, and the contract of their text towers."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT, VIT, still, wild

from mmstop.errors import ConfigError
from mmstop.methods import DiscoVLACLIPText, DiscoVLACLIPViT, UniPT
from mmstop.registry import MODELS

TOKENS = torch.tensor([[98, 5, 6, 7, 99, 0, 0], [98, 8, 99, 0, 0, 0, 0]])
LORA = dict(lora=dict(rank=8))
PAPER = dict(type='CLIPText', arch='ViT-B-32-quickgelu', weights=None)
TEXTS = {  # name -> trained parameters on ViT-B/32, options of the tower inside
    'UniPT': (3_940_353, {}),
    'DiscoVLACLIPText': (214_032, LORA),
    'CLIPText': (196_608, LORA),  # TempMe's
}
every_text = pytest.mark.parametrize('name', TEXTS)


def build(name, clip=TEXT):
    torch.manual_seed(0)
    clip = dict(clip, **TEXTS[name][1])
    model = clip if name == 'CLIPText' else dict(type=name, clip=clip)
    return MODELS.build(model).eval()


def trained_of(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def stir(model):
    for parameter in trained_of(model).values():
        torch.nn.init.normal_(parameter, std=0.1)


# --- The text towers ----------------------------------------------------------------


@every_text
def test_every_trained_parameter_of_a_text_tower_learns(name):
    model = build(name)
    stir(model)
    (model(TOKENS) * torch.arange(32.0)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
        elif parameter_name != 'confidence.bias':  # the same for all hidden states
            assert parameter.grad.abs().sum() > 0, parameter_name


@every_text
@torch.no_grad()
def test_a_text_depends_neither_on_its_neighbours_nor_on_padding(name):
    model = build(name)
    stir(model)
    together = model(TOKENS)
    alone = torch.cat([model(TOKENS[:1, :5]), model(TOKENS[1:, :3])])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@every_text
@torch.no_grad()
def test_a_checkpoint_of_a_text_tower_needs_what_was_trained(name):
    model = build(name)
    stir(model)
    expected = model(TOKENS)
    saved = {n: p.clone() for n, p in trained_of(model).items()}
    stir(model)
    model.load_state_dict(saved)
    assert torch.equal(model(TOKENS), expected)


@every_text
def test_number_of_trained_parameters_of_a_text_tower(name):
    with torch.device('meta'):
        model = build(name, PAPER)
    assert sum(p.numel() for p in trained_of(model).values()) == TEXTS[name][0]


# --- UniPT --------------------------------------------------------------------------


def unipt_by_hand(model, states, end):
    """Aggregate the hidden states of one sequence, token by token: (L, D) each."""
    anchor = model.project(states[-1][end])
    guide = F.relu(model.guide(anchor))
    rows, scores = [], []
    for reduce, state in zip(model.reduce, states):
        tokens = [F.relu(reduce(token)) for token in state]
        affinities = [F.relu(guide @ token) for token in tokens]
        total = sum(affinities)
        mean = sum(tokens) / len(tokens)
        row = sum(a / total * token for a, token in zip(affinities, tokens))
        rows.append(row + tokens[end])
        scores.append(model.confidence(guide * mean).exp())
    mixed = sum(score / sum(scores) * row for score, row in zip(scores, rows))
    return anchor + F.relu(model.out(mixed))


def states_of(tower, x):
    states = [x]
    for i in range(tower.depth):
        x = x + tower.attend(i, x)
        x = x + tower.feed(i, x)
        states.append(x)
    return states


@torch.no_grad()
def test_unipt_equals_a_plain_loop_in_both_towers():
    torch.manual_seed(0)
    model = UniPT(VIT)
    video = wild(2, 3)
    states = states_of(model.clip, model.embed(video))
    expected = [
        sum(
            F.normalize(unipt_by_hand(model, [s[b, t] for s in states], 0), dim=0) / 3
            for t in range(3)
        )
        for b in range(2)
    ]
    found = model(video)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)

    model = UniPT(TEXT)
    for b, end in enumerate(TOKENS.argmax(-1).tolist()):
        tokens = TOKENS[b : b + 1, : end + 1]
        states = [s[0] for s in states_of(model.clip, model.embed(tokens))]
        expected = unipt_by_hand(model, states, end)
        torch.testing.assert_close(model(TOKENS)[b], expected, atol=1e-5, rtol=1e-4)


def test_unipt_sends_no_gradient_into_the_tower():
    model = UniPT(VIT)
    wrote = []
    for i in range(model.depth):
        model.clip.blocks[i].ln_1.register_forward_hook(
            lambda module, args, out: wrote.append(out.requires_grad)
        )
    video = wild(1, 2).requires_grad_()
    model(video).sum().backward()
    assert video.grad is None and len(wrote) == 3 and not any(wrote)


@torch.no_grad()
def test_unipt_without_any_affinity_is_finite():
    model = UniPT(VIT)
    model.guide.weight.zero_()
    model.guide.bias.fill_(-1)
    assert model(wild(1, 2)).isfinite().all()


@pytest.mark.parametrize(
    'tower, message',
    [
        (dict(trainable='ln_post'), "2 trainable parameters, such as 'visual.ln_post"),
        (dict(merge=2), 'clip.merge=2, but UniPT reads all tokens'),
    ],
)
def test_unipt_refuses_a_tower_that_it_cannot_serve(tower, message):
    with pytest.raises(ConfigError, match=message):
        UniPT(dict(VIT, **tower))


# --- DiscoVLA -----------------------------------------------------------------------


@torch.no_grad()
def test_discovla_starts_as_clip_where_all_frames_are_alike():
    torch.manual_seed(0)
    plain, model = MODELS.build(VIT), DiscoVLACLIPViT(dict(VIT, **LORA), blocks=2)
    for video in (wild(2, 1), still(2, 4)):
        torch.testing.assert_close(model(video), plain(video), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(wild(2, 4)), plain(wild(2, 4)), atol=1e-3)
    plain, model = MODELS.build(TEXT), DiscoVLACLIPText(dict(TEXT, **LORA))
    torch.testing.assert_close(model(TOKENS), plain(TOKENS), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('inner', [VIT, dict(type='DeepPromptCLIPViT', clip=VIT)])
def test_discovla_equals_attention_with_a_full_mask(inner):
    """All frames in one sequence, where patches are masked to see their own frame."""
    torch.manual_seed(0)
    model = DiscoVLACLIPViT(inner, blocks=2)
    stir(model)
    T, L = 3, 17
    x = model.embed(wild(2, T))
    frame = torch.arange(T).repeat_interleave(L)
    own = frame[:, None] == frame
    front = (torch.arange(T * L) % L == 0)[:, None]
    for i in range(model.depth):
        if inner is not VIT and i:  # whose prompts a joint sequence would have once
            break
        joint = x.flatten(1, 2).unsqueeze(1)
        alone = model.clip.attend(i, joint, None, own)
        out = alone
        if i > 0:
            all_frames = model.clip.attend(i, joint, None, own | front)
            out = torch.where(front, all_frames + model.bottlenecks[str(i)](alone), out)
        out = out.squeeze(1).unflatten(1, (T, L))
        torch.testing.assert_close(model.attend(i, x), out, atol=1e-5, rtol=1e-4)
        x = x + out
        x = x + model.feed(i, x)
    masked = model.attend(1, x, None, torch.ones(1, L, dtype=torch.bool))
    torch.testing.assert_close(masked, model.attend(1, x))


@pytest.mark.parametrize('options', [dict(blocks=0), dict(hidden=0)])
def test_discovla_names_a_wrong_argument(options):
    for make, clip in ((DiscoVLACLIPViT, VIT), (DiscoVLACLIPText, TEXT)):
        with pytest.raises(ConfigError, match='=0, expected at least 1'):
            make(clip, **options)
