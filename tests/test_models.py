"""The text head, and STOP as a backbone of other people's models."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmaction.structures import ActionDataSample
from mmengine.registry import DefaultScope
from tiny import TEXT, VIT, wild

from mmstop.classes import ENSEMBLES
from mmstop.datasets import load_classes
from mmstop.errors import ConfigError
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


@torch.no_grad()
def test_templates_are_averaged():
    templates = ['{}', 'a {} again', 'he can {}']
    head = MODELS.build(dict(HEAD, template=templates)).eval()
    text, features = head.text, torch.randn(4, 32)
    classes = []
    for name in ('jump', 'kick ball', 'run'):
        rows = [text(text.tokenizer([t.format(name)]))[0] for t in templates]
        rows = [row / row.norm() for row in rows]
        classes.append((rows[0] + rows[1] + rows[2]) / 3)
    expected = F.normalize(features, dim=1) @ F.normalize(torch.stack(classes)).T
    torch.testing.assert_close(head(features), text.logit_scale.exp() * expected)
    assert [len({*ENSEMBLES[name]}) for name in ('clip', 'video')] == [80, 28]
    named = MODELS.build(dict(HEAD, template='video')).eval()
    listed = MODELS.build(dict(HEAD, template=[*ENSEMBLES['video']])).eval()
    assert named.sentences == listed.sentences
    assert len(named.sentences) == 28 * 3 and named.num_templates == 28


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


def test_new_weights_of_any_part_of_the_text_tower_need_new_features():
    head = MODELS.build(HEAD).eval()
    features = torch.randn(4, 32)
    text = head.text
    for part in (text, text.token_embedding):
        before = head(features)
        state = {k: torch.rand_like(v) for k, v in part.state_dict().items()}
        part.load_state_dict(state)
        assert not torch.allclose(head(features), before)
    other = copy.deepcopy(head)
    other.text.load_state_dict(MODELS.build(HEAD).text.state_dict())
    assert head._cache is not None and other._cache is None


def test_a_test_under_inference_mode_may_come_before_training():
    head = MODELS.build(HEAD)
    features = torch.randn(4, 32, requires_grad=True)
    with torch.inference_mode():
        before = head(features)
    head(features).sum().backward()
    assert torch.equal(head(features), before) and features.grad is not None


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_sentences_kept_under_autocast_are_those_of_full_precision(dtype):
    head, features = MODELS.build(HEAD).eval(), torch.randn(4, 32)
    with torch.autocast('cpu', dtype):
        head(features)
    expected = F.normalize(head.text(head.text.tokenize(head.sentences)), dim=1)
    torch.testing.assert_close(head._cache, expected, atol=1e-6, rtol=0)


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
        with pytest.raises(ValueError, match="has braces other than one '{}'"):
            MODELS.build(dict(HEAD, template=template))
    for template in ([], ['a {}', 'a {}']):
        with pytest.raises(ValueError, match='expected one sentence with {} or'):
            MODELS.build(dict(HEAD, template=template))
    for topk in (0, (1, 0), '5'):
        with pytest.raises(ValueError, match='topk=.*, expected integers of at least'):
            MODELS.build(dict(HEAD, topk=topk))
    with pytest.raises(ValueError, match=r'tokens, ViT-tiny has room for 14; shorten'):
        MODELS.build(dict(HEAD, template='a ' * 20 + '{}'))


SAME = ['brush hair', 'kick, a ball', 'run']
CLASS_FILES = {
    'csv': ('id,name\n0,brush_hair\n1,"kick, a ball"\n2,Run\n', SAME),
    'csv_in_any_order': ('id,name\r\n2,Run\r\n0,brush_hair\r\n1,"kick, a ball"', SAME),
    'without_header': ('2,Run\n0,brush_hair\n1,"kick, a ball"', SAME),
    'ids_last': ('name,id\nRun,2\n"kick, a ball",1\nbrush_hair,0\n', SAME),
    'other_delimiter': ('label;name\n1;kick, a ball\n0;brush_hair\n2;Run\n', SAME),
    'tabulator': ('1\tkick, a ball\n0\tbrush_hair\n2\tRun\n', SAME),
    'blank': ('1 kick, a ball\n0 brush_hair\n2 Run\n', SAME),
    'one_class': ('id,name\n0,run\n', ['run']),
    'names_with_commas': ('push, left\npush, right\n', ['push, left', 'push, right']),
    'names_with_numbers': ('2 hands up\n5 fingers\n', ['2 hands up', '5 fingers']),
    'names_with_odd_spaces': ('a\u2028b\na\x0cb\n', ['a\u2028b', 'a\x0cb']),
    'json_ids': ('{"kick, a ball": "1", "Run": "2", "brush_hair": "0"}', SAME),
    'json_names': ('{"2": "Run", "0": "brush_hair", "1": "kick, a ball"}', SAME),
    'json_list': ('["brush_hair", "kick, a ball", "Run"]', SAME),
}
BAD_CLASS_FILES = {
    'from_1': (
        '1 run\n2 jump\n',
        'no class has id 0, and .* 1 to 2; .* subtract 1',
    ),
    'gap': ('id,name\n0,run\n3,jump\n', 'no class has id 1, .* expected 0 to 1'),
    'twice': ('0,run\n0,jump\n', "'run' and 'jump' both have id 0"),
    'no_id': ('id,name\n0,run\nx,jump\n', r"line 3: \['x', 'jump'\], expected an id"),
    'no_quotes': ('id,name\n0,kick, a ball\n', 'line 2: .* put quotes around'),
    'videos': ('a/b.mp4 0\nc d.avi 1\n', "a list of videos, 'a/b.mp4 0', expected"),
    'json_broken': ('{"run": "0"', 'not a whole JSON file'),
    'json_twice': ('{"run": 0, "run": 1}', "'run' occurs twice"),
    'json_other': ('{"database": {"v1": {}}}', "{'database': .*, expected a list"),
    'header_only': ('id,name\n', 'no class names'),
}


@pytest.mark.parametrize('case', CLASS_FILES)
def test_class_files_of_others_are_read(case, tmp_path):
    text, names = CLASS_FILES[case]
    path = tmp_path / f'classes.{"json" if "json" in case else "csv"}'
    path.write_bytes(text.encode('utf-8-sig'))
    assert load_classes(str(path)) == names


@pytest.mark.parametrize('case', BAD_CLASS_FILES)
def test_class_files_that_tell_no_order_are_refused(case, tmp_path):
    text, message = BAD_CLASS_FILES[case]
    path = tmp_path / f'classes.{"json" if "json" in case else "csv"}'
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf'classes\.(csv|json).*{message}'):
        load_classes(str(path))


def test_known_classes_in_another_order_are_doubted(tmp_path):
    names = load_classes('hmdb51')
    i, path = names.index('kick'), tmp_path / 'hmdb_51_labels.csv'
    order = [*names[:i], 'kick_ball', 'kick', *names[i + 2 :]]
    path.write_text('id,name\n' + ''.join(f'{n},{x}\n' for n, x in enumerate(order)))
    with pytest.warns(UserWarning, match=f"label {i} is .*; if .*classes='hmdb51'"):
        assert load_classes(str(path))[i] == 'kick ball'


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
