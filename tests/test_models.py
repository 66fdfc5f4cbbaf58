"""The text head, and STOP as a backbone of other people's models."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmaction.structures import ActionDataSample
from mmengine.registry import DefaultScope
from tiny import TEXT, VIT, wild

from mmstop.datasets import load_classes
from mmstop.registry import MODELS

HEAD = dict(type='CLIPTextHead', text=TEXT, classes=['jump', 'kick_ball', 'Run'])


NEAR = dict(atol=0.02, rtol=0.02)  # of losses, in and out of half precision


def samples(*labels):
    return [ActionDataSample().set_gt_label(label) for label in labels]


@torch.no_grad()
def test_head_is_scaled_cosine_with_sentences():
    head = MODELS.build(HEAD).eval()
    text, features = head.text, torch.randn(4, 32)
    sentences = [f'a video of a person doing {x}' for x in ('jump', 'kick ball', 'run')]
    expected = F.normalize(text(text.tokenizer(sentences)), dim=1)
    cosine = torch.stack([F.cosine_similarity(f[None], expected) for f in features])
    torch.testing.assert_close(head(features), text.logit_scale.exp() * cosine)
    (loss,) = [head.loss(features[:3], samples(2, 0, 1))['loss_cls']]
    torch.testing.assert_close(
        loss, F.cross_entropy(head(features[:3]), torch.tensor([2, 0, 1]))
    )


def test_sentences_of_a_frozen_tower_are_encoded_once(monkeypatch):
    head = MODELS.build(HEAD)
    calls = []
    forward = head.text.forward
    monkeypatch.setattr(head.text, 'forward', lambda x: calls.append(0) or forward(x))
    features = torch.randn(4, 32, requires_grad=True)
    for mode in (True, False, True):
        head.train(mode)(features).sum().backward()
    assert len(calls) == 1
    assert features.grad is not None
    assert not any('cache' in name or '_tokens' in name for name in head.state_dict())
    copy.deepcopy(head), pickle.dumps(head._cache)
    head.load_state_dict(head.state_dict())
    head(features)
    assert len(calls) == 2, 'new weights need new features'


def test_sentences_of_a_learning_tower_follow_it():
    head = MODELS.build(dict(HEAD, text=dict(TEXT, trainable='ln_final')))
    features = torch.randn(4, 32)
    head.train()(features).sum().backward()
    assert head.text.ln_final.weight.grad.abs().sum() > 0
    before = head.eval()(features)
    head.train()
    with torch.no_grad():
        head.text.ln_final.weight.mul_(torch.rand(32))
    assert not torch.allclose(head.eval()(features), before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('trainable', [None, '.'])
def test_autocast_rounds_no_score_of_the_head(dtype, trainable):
    head = MODELS.build(dict(HEAD, text=dict(TEXT, trainable=trainable)))
    features = torch.randn(3, 32).to(dtype).requires_grad_()
    with torch.autocast('cpu', dtype):
        scores, labels = head(features), samples(2, 0, 1)
        loss = head.loss(features, labels)['loss_cls']
    torch.testing.assert_close(loss, head.loss(features, labels)['loss_cls'], **NEAR)
    if trainable is None:
        assert torch.equal(scores, head(features.float()))
    loss.backward()
    learning = [p for p in head.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in [features, *learning])


@pytest.mark.parametrize(
    'classes, first, last, number',
    [
        ('ucf101', 'apply eye makeup', 'yo yo', 101),
        ('hmdb51', 'brush hair', 'wave', 51),
        (
            'ssv2',
            'approaching something with your camera',
            'wiping something off of something',
            174,
        ),
    ],
)
def test_class_lists_become_words(classes, first, last, number):
    names = load_classes(classes)
    assert (names[0], names[-1], len(names)) == (first, last, number)


def test_faulty_class_lists(tmp_path):
    path = tmp_path / 'names.txt'
    path.write_bytes('\ufeffrun\r\njump\r\n'.encode())  # BOM and CRLF are no fault
    assert load_classes(str(path)) == ['run', 'jump']
    path.write_bytes('a b\x0cc\nd\u2028e\x85f\rg\x1dh i\r\n'.encode())
    assert load_classes(str(path)) == ['a b\x0cc', 'd\u2028e\x85f', 'g\x1dh i']
    path.write_bytes(b'caf\xe9\n')
    with pytest.raises(ValueError, match='names.txt: not UTF-8 .* convert it'):
        load_classes(str(path))
    path.write_text('run\n\njump\n')
    with pytest.raises(ValueError, match='names.txt: the name of label 1 is empty'):
        load_classes(str(path))
    path.write_text('run\njump\nRun\n')
    with pytest.raises(ValueError, match="labels 0 and 2 are both 'run'"):
        load_classes(str(path))
    with pytest.raises(FileNotFoundError, match="did you mean 'ucf101'"):
        load_classes('ucf-101')
    with pytest.raises(ValueError, match='no class names'):
        load_classes([])
    with pytest.raises(ValueError, match="template='a video' has no '{}'"):
        MODELS.build(dict(HEAD, template='a video'))
    for template in ('{} and {}', '{} of {x}', '{}}'):
        with pytest.raises(ValueError, match="has other braces beside one '{}'"):
            MODELS.build(dict(HEAD, template=template))
    for topk in (0, (1, 0), '5'):
        with pytest.raises(ValueError, match='topk=.*, expected whole numbers from 1'):
            MODELS.build(dict(HEAD, topk=topk))
    with pytest.raises(ValueError, match=r'tokens, ViT-tiny has room for 14; shorten'):
        MODELS.build(dict(HEAD, template='a ' * 20 + '{}'))


@pytest.mark.parametrize(
    'head',
    [
        dict(type='TimeSformerHead', num_classes=3, in_channels=32),
        dict(type='I3DHead', num_classes=3, in_channels=32, spatial_type=None),
        HEAD,
    ],
    ids=lambda head: head['type'],
)
def test_backbone_of_an_unchanged_recognizer(head):
    with DefaultScope.overwrite_default_scope('mmaction'):
        model = MODELS.build(
            dict(
                type='Recognizer3D',
                backbone=dict(type='STOPCLIPViT', clip=VIT),
                cls_head=dict(head, average_clips='prob'),
            )
        )
    model.init_weights()
    clips = wild(4, 3).unflatten(0, (2, 2))  # (videos, clips, 3, T, H, W)
    model(clips[:, :1], samples(0, 2), mode='loss')['loss_cls'].backward()
    assert model.backbone.temporal.bank.weight.grad.abs().sum() > 0
    with torch.no_grad():
        predictions = model.eval()(clips, samples(0, 2), mode='predict')
    for sample in predictions:
        assert sample.pred_score.shape == (3,)
        assert sample.pred_score.sum() == pytest.approx(1)


def test_backbone_of_an_image_classifier_elsewhere():
    import mmpretrain.models  # noqa: F401
    from mmpretrain.registry import MODELS as THEIRS

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = THEIRS.build(dict(type='STOPCLIPViT', clip=VIT))
        head = THEIRS.build(dict(type='LinearClsHead', num_classes=3, in_channels=32))
    features = backbone(wild(2, 1))  # images are videos of one frame
    assert head((features,)).shape == (2, 3)
