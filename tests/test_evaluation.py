"""The retrieval metric against a plain double loop, its relatives against theirs."""

import itertools
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmaction.evaluation import RetrievalMetric
from mmengine.evaluator import Evaluator
from pages import code_of

from mmstop.errors import ConfigError, MissingFileError
from mmstop.evaluation import VideoTextRetrieval


def sample(video, text):
    return {'features': {'video_feature': video, 'text_feature': text}}


def measure(samples, batch=2, **options):
    """Run the metric as a test loop does: {'t2v/R1': ...}."""
    evaluator = Evaluator(VideoTextRetrieval(**options))
    for i in range(0, len(samples), batch):
        evaluator.process(samples[i : i + batch])
    results = evaluator.evaluate(len(samples))
    return {key.removeprefix('retrieval/'): value for key, value in results.items()}


def draw(captions, E=8, seed=0):
    """Draw features: one video for each number of captions."""
    generator = torch.Generator().manual_seed(seed)
    return [
        sample(
            torch.randn(E, generator=generator),
            torch.randn(*([k] if k > 1 else []), E, generator=generator),
        )
        for k in captions
    ]


def cosine(a, b):
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def slow_ranks(samples, score=cosine):
    """Rank by two loops over videos and captions: {'t2v': ..., ...}."""
    videos = [s['features']['video_feature'] for s in samples]
    texts = [s['features']['text_feature'].reshape(-1, len(videos[0])) for s in samples]
    t2v, v2t, v2t_captions = [], [], []
    for v, own in enumerate(texts):
        for text in own:
            right = score(text, videos[v])
            t2v.append(sum(not score(text, video) < right for video in videos))
        # The maximum is NaN if one of the scores is.
        best = np.max([score(text, videos[v]) for text in own])
        others = [captions for w, captions in enumerate(texts) if w != v]
        foreign = [[score(text, videos[v]) for text in one] for one in others]
        v2t.append(1 + sum(not np.max(scores) < best for scores in foreign))
        v2t_captions.append(1 + sum(not s < best for scores in foreign for s in scores))
    found = {'t2v': t2v, 'v2t': v2t}
    return found if len(t2v) == len(v2t) else {**found, 'v2t_captions': v2t_captions}


def summary(ranks):
    return {
        **{f'R{k}': 100 * sum(r <= k for r in ranks) / len(ranks) for k in (1, 5, 10)},
        'MdR': statistics.median(ranks),
        'MnR': statistics.mean(ranks),
    }


def check(found, samples, **options):
    for name, ranks in slow_ranks(samples, **options).items():
        for key, value in summary(ranks).items():
            assert found[f'{name}/{key}'] == pytest.approx(value), f'{name}/{key}'


@pytest.mark.parametrize(
    'captions', [[1] * 30, [10] * 15, [1, 7, 2, 3] * 5, [1]], ids=str
)
@pytest.mark.parametrize('chunk', [2**24, 7], ids=['whole', 'chunked'])
def test_equals_a_double_loop(captions, chunk, monkeypatch):
    monkeypatch.setattr('mmstop.evaluation.ranking.CHUNK', chunk)
    samples = draw(captions)
    check(measure(samples), samples)


@pytest.mark.parametrize('captions', [[1] * 40, [3, 1, 2] * 12], ids=str)
def test_ties_count_against_the_model(captions):
    """Features from a handful of directions: nearly every score occurs many times."""
    directions = torch.eye(4).repeat(1, 2)
    choose = np.random.default_rng(0)
    samples = []
    for k in captions:
        picked = directions[torch.from_numpy(choose.integers(4, size=k + 1))]
        scale = 2.0 ** choose.integers(-3, 4)  # of no importance to a cosine
        samples.append(sample(scale * picked[0], picked[1:] if k > 1 else picked[1]))
    found = measure(samples)
    check(found, samples)
    assert found['t2v/R1'] < 20  # one who took ties for hits would report far more


def test_equal_features_tie_wherever_they_stand():
    """Two videos in a gallery of odd size are the same, and each is the other's tie."""
    samples = draw([1] * 203, E=509)
    for v in range(101):
        twin = samples[202 - v]['features']
        twin['video_feature'] = samples[v]['features']['video_feature']
        twin['text_feature'] = samples[v]['features']['text_feature'] = (
            twin['video_feature'] + 0.1 * twin['text_feature']
        )
    samples[101]['features']['text_feature'] = samples[101]['features']['video_feature']
    found = measure(samples)
    assert found['t2v/MdR'] == found['v2t/MdR'] == 2
    assert found['t2v/R1'] == found['v2t/R1'] == pytest.approx(100 / 203)


def test_a_model_that_gives_the_same_to_all_is_worst_not_best():
    same = [sample(torch.ones(4), torch.ones(4)) for _ in range(20)]
    lost = [sample(torch.full((4,), torch.nan), torch.ones(4)) for _ in range(20)]
    for samples in (same, lost):
        found = measure(samples)
        assert found['t2v/R10'] == found['v2t/R10'] == 0
        assert found['t2v/MdR'] == found['v2t/MdR'] == 20


def test_agrees_with_mmaction2_where_it_can_say():
    samples = draw([1] * 50, E=16)
    theirs = Evaluator(RetrievalMetric())
    theirs.process(samples)
    for key, value in theirs.evaluate(50).items():
        found = measure(samples)[key.replace('retrieval/', 't2v/')]
        assert found == pytest.approx(value)


def test_names_of_the_columns():
    measures = ('R1', 'R5', 'R10', 'MdR', 'MnR')
    raw = {f'{d}/{m}' for d, m in itertools.product(('t2v', 'v2t'), measures)}
    assert measure(draw([1] * 5)).keys() == raw
    both = measure(draw([1] * 5), dsl=True)
    assert both.keys() == raw | {k.replace('/', '_dsl/') for k in raw}
    several = measure(draw([2] * 5))
    assert several.keys() == raw | {f'v2t_captions/{m}' for m in measures}


def test_the_worked_example_of_the_docs(capsys):
    exec(code_of('metrics.md')[0], {'__name__': 'example'})
    assert capsys.readouterr().out.splitlines()[-1] == '[1.75, 2.0, 3.0]'


def test_the_two_definitions_of_video_to_text_differ_as_published():
    """Ten similar captions a video: one close rival counts once, or ten times."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(500):
        video = torch.randn(8, generator=generator)
        common = torch.randn(8, generator=generator)
        own = torch.randn(10, 8, generator=generator)
        samples.append(sample(video, video + 0.6 * common + 0.1 * own))
    found = measure(samples)
    assert found['v2t/R1'] == found['v2t_captions/R1']
    assert found['v2t/R5'] > found['v2t_captions/R5'] + 5
    assert found['v2t/MnR'] < found['v2t_captions/MnR']


@pytest.mark.parametrize('captions', [[1] * 30, [4, 1, 2] * 8], ids=str)
def test_dual_softmax(captions, monkeypatch):
    monkeypatch.setattr('mmstop.evaluation.ranking.CHUNK', 50)
    samples = draw(captions)
    videos, texts, owner = stacked(samples)
    scores = texts @ videos.T
    found = measure(samples, dsl=True, dsl_temperature=0.1)
    by_text = scores * (scores / 0.1).softmax(0)  # over all captions
    by_video = scores * (scores / 0.1).softmax(1)  # over all videos
    check_matrices(found, '_dsl', by_text, by_video, owner)
    raw = measure(samples)
    assert {key: found[key] for key in raw} == raw
    assert found['t2v_dsl/MnR'] != found['t2v/MnR']


@pytest.mark.parametrize('captions', [[1] * 30, [4, 1, 2] * 8], ids=str)
def test_query_bank(captions, tmp_path, monkeypatch):
    monkeypatch.setattr('mmstop.evaluation.ranking.CHUNK', 50)
    others, samples = draw([2, 1, 3], seed=1), draw(captions)
    path = str(tmp_path / 'folder' / 'bank.npz')
    measure(others, features_out=path)
    found = measure(samples, query_bank=path, bank_beta=5)
    videos, texts, owner = stacked(samples)
    bank_videos, bank_texts, _ = stacked(others)
    scores = texts @ videos.T
    by_text = inverted(scores, bank_texts @ videos.T, beta=5)
    by_video = inverted(scores.T, bank_videos @ texts.T, beta=5).T
    check_matrices(found, '_qb', by_text, by_video, owner)
    assert found['t2v_qb/MnR'] != found['t2v/MnR']


def inverted(scores, bank, beta):
    """Write out the dynamic inverted softmax, query by query."""
    hubs = set(bank.argmax(1).tolist())
    rows = []
    for row in scores:
        if int(row.argmax()) in hubs:
            row = (beta * row).exp() / (beta * bank).exp().sum(0)
        rows.append(row)
    return torch.stack(rows)


def stacked(samples):
    features = [s['features'] for s in samples]
    videos = torch.stack([f['video_feature'] for f in features]).double()
    texts = [f['text_feature'].reshape(-1, videos.shape[1]).double() for f in features]
    owner = [v for v, own in enumerate(texts) for _ in own]
    unit = torch.nn.functional.normalize
    return unit(videos), unit(torch.cat(texts)), owner


def check_matrices(found, suffix, by_text, by_video, owner):
    """Compare with ranks that are read off two whole matrices (captions, videos)."""
    t2v = [int((row >= row[v]).sum()) for row, v in zip(by_text, owner)]
    v2t = []
    for v, column in enumerate(by_video.T):
        best = [
            max(score for score, w in zip(column, owner) if w == u)
            for u in range(by_video.shape[1])
        ]
        v2t.append(sum(int(score >= best[v]) for score in best))
    for name, ranks in (('t2v', t2v), ('v2t', v2t)):
        for key, value in summary(ranks).items():
            assert found[f'{name}{suffix}/{key}'] == pytest.approx(value)


def test_bad_input(tmp_path):
    with pytest.raises(MissingFileError, match='no such file; test on the training'):
        VideoTextRetrieval(query_bank=str(tmp_path / 'none.npz'))
    page = tmp_path / 'page.npz'
    page.write_text('<html>')
    with pytest.raises(ConfigError, match='page.npz.* was not written by features_out'):
        VideoTextRetrieval(query_bank=str(page))
    with pytest.raises(ValueError, match='expected a .npz file'):
        VideoTextRetrieval(features_out='features.pkl')
    with pytest.raises(ValueError, match='dsl_temperature=0, expected more than 0'):
        VideoTextRetrieval(dsl_temperature=0)
    with pytest.raises(ValueError, match='a video has no caption'):
        measure([sample(torch.ones(4), torch.ones(0, 4))])
    bank = str(tmp_path / 'bank.npz')
    measure(draw([1] * 3), features_out=bank)
    with pytest.raises(ConfigError, match='of width 8, this model of width 16'):
        measure(draw([1] * 3, E=16), query_bank=bank)


PEAK = """
import resource, sys, torch
from mmstop.evaluation import VideoTextRetrieval

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

metric = VideoTextRetrieval(dsl=sys.argv[2] == 'dsl')
torch.manual_seed(0)
for _ in range(int(sys.argv[1])):
    metric.results.append((torch.randn(64), torch.randn(6, 64)))
before = peak()
results = metric.compute_metrics(metric.results)
print(len(results), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'videos, dsl, metrics, most', [(10_000, 'plain', 15, 2e9), (5_000, 'dsl', 25, 1e9)]
)
def test_scores_are_never_all_in_memory(videos, dsl, metrics, most):
    """Six captions a video: all scores would take 2.4 GB as float32, 1.2 as float64."""
    command = [sys.executable, '-c', PEAK, str(videos), dsl]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, size = map(int, done.stdout.splitlines()[-1].split())
    assert count == metrics and size < most
