"""The steps of a tower that methods build upon: LoRA, shared prompts, mean keys."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT, VIT, wild

from mmstop.errors import ConfigError
from mmstop.methods import PromptedCLIPText
from mmstop.models import CLIPRecognizer, CLIPRetriever
from mmstop.registry import MODELS
from mmstop.towers import CLIPText, CLIPViT, TunedTower

TOKENS = torch.tensor([[98, 5, 6, 7, 99, 0, 0], [98, 8, 99, 0, 0, 0, 0]])


@MODELS.register_module(force=True)
class Sharing(TunedTower):
    """A video tower whose prompts for the text tower are one parameter."""

    def __init__(self, clip):
        super().__init__(clip)
        depth, width = self.text_size
        self.shared = torch.nn.Parameter(torch.randn(depth, 4, width))

    def text_prompts(self):
        return self.shared


def text_by_hand(tower, prompts, ids):
    """Put the prompts between the words of one text: (L,) -> (E,)."""
    end = int(ids.argmax())
    x = tower.embed(ids[None])[0]
    for i in range(tower.depth):
        half = len(prompts[i]) // 2
        start, words, rest = x[:1], x[1:end], x[end:]
        parts = [start, prompts[i, :half], words, prompts[i, half:], rest]
        y = torch.cat(parts)
        y = y + tower.attend(i, y[None])[0]
        y = y + tower.feed(i, y)
        x = torch.cat([y[:1], y[1 + half : half + end], y[2 * half + end :]])
    return tower.project(x[end])


def test_prompts_around_the_words_are_those_of_a_longer_causal_sequence():
    torch.manual_seed(0)
    tower = MODELS.build(dict(type='PromptedCLIPText', clip=TEXT, num_prompts=4))
    torch.nn.init.normal_(tower.prompts)
    expected = [text_by_hand(tower.clip, tower.prompts, ids) for ids in TOKENS]
    torch.testing.assert_close(tower(TOKENS), torch.stack(expected))


def test_shared_prompts_reach_the_text_tower_in_both_tasks():
    torch.manual_seed(0)
    text = dict(type='PromptedCLIPText', clip=TEXT, num_prompts=0)
    model = MODELS.build(
        dict(
            type='CLIPRetriever',
            backbone=dict(type='Sharing', clip=VIT),
            text=text,
            data_preprocessor=dict(type='BaseDataPreprocessor'),
        )
    )
    inputs = dict(imgs=wild(2, 2)[:, None], text=TOKENS)
    model(inputs, mode='loss')['loss_contrastive'].backward()
    assert model.backbone.shared.grad.abs().sum() > 0
    _, embedded = model(inputs, mode='tensor')
    torch.testing.assert_close(embedded, model.text(TOKENS, model.backbone.shared))
    with pytest.raises(ConfigError, match='text tower learns'):
        model.keep_captions(TOKENS)

    recognizer = CLIPRecognizer(
        backbone=dict(type='Sharing', clip=VIT),
        cls_head=dict(type='CLIPTextHead', text=text, classes=['run', 'jump high']),
        data_preprocessor=dict(type='BaseDataPreprocessor'),
    )
    head = recognizer.cls_head
    features, options = recognizer.extract_feat(wild(2, 2)[:, None])
    scores = head(features, **options)
    scores.softmax(-1)[:, 0].sum().backward()
    assert recognizer.backbone.shared.grad.abs().sum() > 0
    recognizer.eval()
    with torch.no_grad():
        torch.testing.assert_close(head(features, **options), scores)
        recognizer.backbone.shared.add_(1)  # what was cached is no longer right
        changed = head(features, text_prompts=recognizer.backbone.text_prompts())
        sentences = head.text(head._tokens, recognizer.backbone.shared)
        cosines = F.normalize(features, dim=-1) @ F.normalize(sentences, dim=-1).T
    torch.testing.assert_close(changed, head.text.logit_scale.exp() * cosines)


def test_prompts_that_nobody_makes_or_takes_are_refused():
    preprocessor = dict(type='BaseDataPreprocessor')
    sharing = dict(type='Sharing', clip=VIT)
    with pytest.raises(ConfigError, match="set text=dict\\(type='PromptedCLIPText'"):
        CLIPRetriever(sharing, TEXT, preprocessor)
    without = dict(type='PromptedCLIPText', clip=TEXT, num_prompts=0)
    with pytest.raises(ConfigError, match='needs prompts from the video tower'):
        MODELS.build(without)(TOKENS)
    with pytest.raises(ConfigError, match='the video tower makes the prompts'):
        PromptedCLIPText(TEXT, 4)(TOKENS, torch.zeros(3, 4, 64))
    with pytest.raises(ConfigError, match='num_prompts=3, expected an even number'):
        PromptedCLIPText(TEXT, 3)


def test_lora_starts_as_the_frozen_tower_and_equals_a_tower_with_the_sum():
    torch.manual_seed(0)
    options = {k: v for k, v in VIT.items() if k != 'type'}
    plain = CLIPViT(**options)
    layers = 'qkv', 'out', 'up', 'down'
    tower = CLIPViT(**options, lora=dict(rank=2, layers=layers))
    video = wild(2, 3)
    torch.testing.assert_close(tower(video), plain(video))
    for name, parameter in tower.named_parameters():
        assert parameter.requires_grad == name.startswith('lora.')
    for parameter in tower.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for i, block in enumerate(plain.blocks):
        frozen = {
            'qkv': block.attn.in_proj_weight,
            'out': block.attn.out_proj.weight,
            'up': block.mlp.c_fc.weight,
            'down': block.mlp.c_proj.weight,
        }
        for layer, weight in frozen.items():
            weight.data += tower.lora[layer][i].up @ tower.lora[layer][i].down
    torch.testing.assert_close(tower(video), plain(video), atol=1e-5, rtol=1e-4)
    tokens = plain.embed(video)
    torch.testing.assert_close(
        tower.cls_attention(1, tokens), plain.cls_attention(1, tokens)
    )


@pytest.mark.parametrize('lora', [dict(rank=0), dict(rank=2, layers=('attn',))])
def test_lora_names_a_wrong_argument(lora):
    options = {k: v for k, v in TEXT.items() if k != 'type'}
    with pytest.raises(ConfigError, match='lora.(rank|layers)='):
        CLIPText(**options, lora=lora)


@torch.no_grad()
def test_mean_keys_are_the_heads_average():
    tower = MODELS.build(VIT)
    x = tower.embed(wild(1, 2))
    _, keys, _ = tower._qkv(1, tower.normalize(1, x), None)  # (T, heads, L, d)
    torch.testing.assert_close(tower.mean_keys(1, x)[0], keys.mean(1))


def test_a_learned_scale_stays_at_a_hundred_or_less():
    text = dict(TEXT, trainable='logit_scale')
    model = CLIPRetriever(VIT, text, dict(type='BaseDataPreprocessor'))
    model.text.logit_scale.data.fill_(5.0)
    model(dict(imgs=wild(2, 2)[:, None], text=TOKENS), mode='loss')
    assert model.text.logit_scale.exp().item() == pytest.approx(100)


@pytest.mark.parametrize('inner', ['STOPCLIPViT', 'TempMeCLIPViT', 'DGLCLIPViT'])
def test_a_forward_pass_that_would_not_run_is_refused(inner):
    clip = dict(type=inner, clip=VIT)
    with pytest.raises(ConfigError, match=f'put AdapterFFN inside: .*{inner}'):
        MODELS.build(dict(type='AdapterFFN', clip=clip))
