"""Retrieval: the model, its loss over processes, captions, and what is encoded once."""

import itertools
import json
import math

import distributed_step
import pytest
import torch
import torch.nn.functional as F
from mmaction.evaluation import RetrievalMetric
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from test_tools import test, train
from tiny import TEXT, TINY, VIT, wild
from tiny_run import ROOT, run, write_tiny_retrieval

from mmstop.datasets import AnnotationError, CaptionTokenize, load_captions
from mmstop.models.losses import contrastive_loss, video_ids
from mmstop.registry import MODELS

# --- The model ----------------------------------------------------------------------


@pytest.fixture(scope='module')
def model():
    return distributed_step.build('retrieval').eval()


def tokens(*captions):
    return MODELS.build(TEXT).tokenize(captions)


@torch.no_grad()
def test_tensor_mode_is_the_two_towers(model):
    imgs, text = wild(6, 3).unflatten(0, (3, 2)), tokens('a dog', 'a cat', 'a hat')
    video, captions = model({'imgs': imgs, 'text': text})
    clips = torch.stack([model.backbone(imgs[:, v]) for v in range(2)])
    torch.testing.assert_close(video, clips.mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(captions, model.text(text))
    alone, _ = model({'imgs': imgs[:, :1], 'text': text})
    torch.testing.assert_close(alone, clips[0], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_predict_writes_unit_features_of_one_caption_or_several(model):
    text = [tokens('a dog'), tokens('a cat', 'a hat', 'a bat')]
    samples = [ActionDataSample(), ActionDataSample()]
    inputs = {'imgs': wild(2, 3)[:, None], 'text': text}
    one, three = model(inputs, samples, mode='predict')
    assert one.features.video_feature.shape == one.features.text_feature.shape == (32,)
    assert three.features.text_feature.shape == (3, 32)
    video, captions = (F.normalize(x, dim=-1) for x in model(inputs))
    torch.testing.assert_close(three.features.video_feature, video[1])
    torch.testing.assert_close(three.features.text_feature, captions[1:])
    torch.testing.assert_close(one.features.text_feature, captions[0])


@torch.no_grad()
def test_mmaction2_s_metric_takes_what_is_predicted(model):
    text = tokens('a dog', 'a cat', 'a hat')
    inputs = {'imgs': wild(3, 3)[:, None], 'text': text}
    evaluator = Evaluator(RetrievalMetric())
    evaluator.process(model(inputs, mode='predict'))
    video, captions = (F.normalize(x, dim=-1) for x in model(inputs))
    scores = captions @ video.T
    hits = (scores.argmax(1) == torch.arange(3)).float().mean().item()
    assert evaluator.evaluate(3)['retrieval/R1'] == pytest.approx(100 * hits)


def test_what_a_retriever_refuses(model):
    inputs, samples = distributed_step.batch('retrieval')
    with pytest.raises(ValueError, match="mode='embed', expected 'tensor', 'loss'"):
        model(inputs, samples, mode='embed')
    inputs['text'] = [inputs['text'][:2]] * 8
    with pytest.raises(ValueError, match='16 captions for 8 videos.*test_mode=False'):
        model(inputs, samples, mode='loss')
    preprocessor = dict(type='mmaction.MultiModalDataPreprocessor', preprocessors={})
    shapes = dict(type='CLIPText', arch='ViT-moving-shapes', weights=None)
    with pytest.raises(
        ValueError, match='embeds in 32 dimensions, the text tower in 64'
    ):
        MODELS.build(
            dict(
                type='CLIPRetriever',
                backbone=VIT,
                text=shapes,
                data_preprocessor=preprocessor,
            )
        )


# --- The loss -----------------------------------------------------------------------


def slow_loss(video, text, scale, names):
    """Write Eq. 15 out, one exponential after the other."""
    score = [
        [scale * float(F.cosine_similarity(t, v, dim=0)) for v in video] for t in text
    ]
    B, total = len(names), 0.0
    for i in range(B):
        others = [j for j in range(B) if names[j] is None or names[j] != names[i]]
        for row in ([score[i][j] for j in others], [score[j][i] for j in others]):
            mass = math.exp(score[i][i]) + sum(
                math.exp(s) for j, s in zip(others, row) if j != i
            )
            total -= math.log(math.exp(score[i][i]) / mass)
    return total / (2 * B)


@pytest.mark.parametrize(
    'names',
    [[None] * 6, list('abcdef'), list('abacab'), [None, 'a', None, 'a', 'b', 'b']],
)
def test_loss_equals_the_written_out_sum(names):
    torch.manual_seed(0)
    video, text, scale = torch.randn(6, 8), torch.randn(6, 8), torch.tensor(5.0)
    samples = [
        ActionDataSample(metainfo={} if name is None else {'video_id': name})
        for name in names
    ]
    ids = video_ids(samples, 6)
    found = contrastive_loss(video, text, scale, ids)
    assert found.item() == pytest.approx(slow_loss(video, text, 5.0, names), rel=1e-5)


def test_a_batch_of_one_video_has_no_negatives():
    same = torch.ones(4, dtype=torch.int64)
    loss = contrastive_loss(
        torch.randn(4, 8), torch.randn(4, 8), torch.tensor(9.0), same
    )
    assert loss.item() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_keeps_loss_and_gradients(dtype, monkeypatch):
    """Both steps get the same selection, since rounding can select another patch."""

    def step():
        model = distributed_step.build('retrieval')
        return distributed_step.step(model, 'retrieval', torch.float32, 5)

    selected = []
    with monkeypatch.context() as patch:
        for name in ('argsort', 'ceil'):  # Eq. 6, Eq. 11
            plain = getattr(torch.Tensor, name)

            def record(self, plain=plain, **options):
                selected.append(plain(self, **options))
                return selected[-1]

            patch.setattr(torch.Tensor, name, record)
        expected = step()
    assert selected
    replayed = iter(selected)
    for name in ('argsort', 'ceil'):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, **__: next(replayed))
    with torch.autocast('cpu', dtype):
        found = step()
    assert not [*replayed]
    assert found['loss'].item() == pytest.approx(expected['loss'].item(), rel=0.02)
    for name, value in expected.items():
        assert (found[name] - value).norm() / value.norm() < 0.2, name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_rounds_no_score_of_the_loss(dtype):
    """Half precision would round scores, which go up to 100, to 0.06 or 0.5."""
    torch.manual_seed(0)
    video, text = torch.randn(2, 6, 8).to(dtype)
    scale, ids = torch.tensor(100.0), torch.zeros(6, dtype=torch.int64)
    expected = slow_loss(video.double(), text.double(), 100.0, [None] * 6)
    with torch.autocast('cpu', dtype):
        found = contrastive_loss(video, text, scale, ids)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=1e-5)


# --- Captions -----------------------------------------------------------------------


def test_tokens_are_cut_whole_and_keep_their_end():
    text = MODELS.build(TEXT)
    start, end = (text.tokenizer.sot_token_id, text.tokenizer.eot_token_id)
    words = 'one two three four five six seven'
    ids = text.tokenizer.encode(words)
    cut = CaptionTokenize(arch=TINY, max_tokens=6)
    assert cut({'text': words})['text'].tolist() == [start, *ids[:4], end]
    short, long = cut({'text': ['one', words]})['text'].tolist()
    assert short == [start, ids[0], end, 0, 0, 0]
    assert long == [start, *ids[:4], end]


@torch.no_grad()
def test_unused_positions_change_nothing():
    text = MODELS.build(TEXT)
    short = CaptionTokenize(arch=TINY, max_tokens=5)({'text': ['a dog']})['text']
    long = CaptionTokenize(arch=TINY, max_tokens=16)({'text': ['a dog']})['text']
    torch.testing.assert_close(text(short), text(long))


def test_room_for_captions():
    for tokens in (2, 17):
        with pytest.raises(ValueError, match=f'max_tokens={tokens}, expected 3 to 16'):
            CaptionTokenize(arch=TINY, max_tokens=tokens)


FAULTS = {
    '{"a.mp4": ["one"], "b.mp4": ["t': 'not a whole JSON file.*download it again',
    '{"a.mp4": ["one"], "a.mp4": ["two"]}': "'a.mp4' occurs twice",
    '{"a.mp4": ["one", "  "]}': "caption 1 of 'a.mp4' is '  ', expected words",
    '{"a.mp4": ["one", 7]}': "caption 1 of 'a.mp4' is 7, expected words",
    '{"a.mp4": []}': r"'a.mp4' has \[\], expected a list of at least one caption",
    '{"a.mp4": "one"}': "'a.mp4' has 'one', expected a list",
    '["a.mp4"]': r'expected \{"video.mp4": \["caption", ...\], ...\}',
    '{}': 'with at least one video',
    '{"a.mp4": ["\\ud83d"]}': r"a.mp4.*\\ud83d' ends in half a character",
    '{"a.mp4": [' + 5000 * '9' + ']}': 'not a whole JSON file.*limit',
}


@pytest.mark.parametrize('text', FAULTS, ids=lambda text: text[:40])
def test_faulty_annotations(text, tmp_path):
    path = tmp_path / 'captions.json'
    path.write_text(text)
    with pytest.raises(AnnotationError, match=f'captions.json: .*{FAULTS[text]}'):
        load_captions(path)


def test_other_faults_of_files(tmp_path):
    path = tmp_path / 'captions.json'
    with pytest.raises(FileNotFoundError, match='captions.json: there is no such file'):
        load_captions(path)
    path.write_bytes('{"a.mp4": ["café"]}'.encode('latin-1'))
    with pytest.raises(AnnotationError, match='not UTF-8'):
        load_captions(path)
    path.write_bytes('\ufeff{"a.mp4":\r\n ["café"]}'.encode())  # no faults
    assert load_captions(path) == {'a.mp4': ['café']}


# --- Runs ---------------------------------------------------------------------------


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A run of six videos with two captions each in training, ten in testing."""
    return write_tiny_retrieval(tmp_path_factory.mktemp('retrieval'))


def build_dataset(config, split):
    with DefaultScope.overwrite_default_scope('mmaction'):
        return DATASETS.build(Config.fromfile(config)[f'{split}_dataloader'].dataset)


def test_training_has_pairs_and_testing_videos(config):
    captions = json.loads((config.parent / 'train.json').read_text())
    pairs = build_dataset(config, 'train')
    found = [(i['video_id'], i['text']) for i in map(pairs.get_data_info, range(12))]
    assert found == [(v, c) for v, texts in captions.items() for c in texts]
    assert len(pairs) == 12
    item = pairs[3]
    assert item['inputs']['imgs'].shape == (1, 3, 4, 32, 32)
    assert item['inputs']['text'].shape == (16,)
    assert item['data_samples'].video_id == 'a/green.mp4'
    videos = build_dataset(config, 'test')
    assert len(videos) == 5
    assert videos[3]['inputs']['text'].shape == (10, 16)


@pytest.mark.slow
def test_trains_and_tests_through_the_tools(config, tmp_path):
    assert train.main([str(config), '--work-dir', str(tmp_path)]) == 0
    (best,) = tmp_path.glob('best_retrieval_t2v_R1_epoch_*.pth')
    folder = tmp_path / 'test'
    assert test.main([str(config), str(best), '--work-dir', str(folder)]) == 0
    (log,) = folder.glob('*/*.log')
    assert '50 captions of 5 videos' in log.read_text()
    (log,) = folder.glob('*/*.json')
    alone = json.loads(log.read_text())
    done = run(
        ROOT / 'tools/dist_test.sh', config, best, 2, '--work-dir', tmp_path / 'dist'
    )
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / 'dist').glob('*/*.json')
    together = json.loads(log.read_text())
    names = [key for key in alone if key.startswith('retrieval/')]
    assert len(names) == 15
    assert {key: together[key] for key in names} == {key: alone[key] for key in names}


def test_each_video_is_encoded_once(config, tmp_path, monkeypatch):
    """Ten captions a video: ten times fewer video forwards than one item a pair."""
    encoded = itertools.count()
    forward = MODELS.get('CLIPViT').forward

    def counted(self, video):
        for _ in video:
            next(encoded)
        return forward(self, video)

    monkeypatch.setattr(MODELS.get('CLIPViT'), 'forward', counted)
    cfg = Config.fromfile(config)
    cfg.model.backbone = VIT
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = None
    cfg.param_scheduler = None
    counts = []
    for dataset in ('VideoCaptionDataset', 'VideoTextDataset'):  # ours and MMAction2's
        cfg.test_dataloader.dataset.type = dataset
        cfg.experiment_name = dataset
        before = next(encoded)
        Runner.from_cfg(cfg).test()
        counts.append(next(encoded) - before - 1)
    assert counts == [5, 50]
