"""The metric, the losses and the captions' transforms on random input against loops."""

import functools
import string
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from fuzz import draws, fuzz, seeds
from hypothesis import example
from hypothesis.strategies import (
    booleans,
    composite,
    dictionaries,
    floats,
    integers,
    lists,
    none,
    sampled_from,
    text,
)
from mmaction.structures import ActionDataSample
from test_evaluation import (
    check,
    check_matrices,
    draw,
    inverted,
    measure,
    sample,
    stacked,
)
from test_retrieval import slow_loss
from tiny import TEXT, TINY

from mmstop.datasets import CaptionTokenize, MirrorCaption
from mmstop.errors import ConfigError
from mmstop.models.losses import contrastive_loss, video_ids
from mmstop.registry import MODELS

# --- The metric -----------------------------------------------------------------------

chunks = sampled_from([1, 7, 50, 2**24])
captions = lists(integers(1, 4), min_size=1, max_size=12)


def in_chunks(size):
    """Let the metric compute so many scores at a time."""
    return mock.patch('mmstop.evaluation.ranking.CHUNK', size)


@composite
def tied(draw):
    """Draw samples of few directions and lengths, some of them not a number."""
    names = sampled_from(['a', 'b', 'c', 'd', 'nan', 'inf'])
    vectors = dict(zip('abcd', torch.eye(4)))
    vectors['nan'] = torch.tensor([1, torch.nan, 0, 0])
    vectors['inf'] = torch.tensor([0, torch.inf, 1, 0])
    scales = sampled_from([2.0**-20, 1.0, 2.0**20])
    samples = []
    for k in draw(captions):
        video, *texts = (vectors[draw(names)] * draw(scales) for _ in range(k + 1))
        samples.append(sample(video, torch.stack(texts) if k > 1 else texts[0]))
    return samples


@fuzz(250, samples=tied(), batch=integers(1, 5), chunk=chunks)
def test_metric_equals_a_double_loop_with_ties(samples, batch, chunk):
    with in_chunks(chunk):
        check(measure(samples, batch), samples)


@fuzz(150, captions=captions, seed=seeds, E=integers(1, 40), chunk=chunks)
def test_metric_equals_a_double_loop(captions, seed, E, chunk):
    samples = draw(captions, E, seed)
    with in_chunks(chunk):
        check(measure(samples), samples)


@fuzz(
    150, captions=captions, seed=seeds, chunk=chunks,
    temperature=sampled_from([0.005, 0.01, 0.1, 1.0]),
)  # fmt: skip
@example(captions=[1, 4], seed=0, chunk=1, temperature=0.005)
def test_dual_softmax_is_two_matrices(captions, seed, chunk, temperature):
    samples = draw(captions, seed=seed)
    with in_chunks(chunk):
        found = measure(samples, dsl=True, dsl_temperature=temperature)
    videos, texts, owner = stacked(samples)
    scores = texts @ videos.T
    by_text = scores * (scores / temperature).softmax(0)
    by_video = scores * (scores / temperature).softmax(1)
    check_matrices(found, '_dsl', by_text, by_video, owner)


@fuzz(
    150, captions=captions, others=captions, seed=seeds, chunk=chunks,
    beta=sampled_from([0.1, 1.0, 20.0, 100.0]),
)  # fmt: skip
def test_query_bank_is_two_matrices(captions, others, seed, chunk, beta):
    samples, bank = draw(captions, seed=seed), draw(others, seed=seed ^ 1)
    with tempfile.TemporaryDirectory() as folder, in_chunks(chunk):
        path = str(Path(folder, 'bank.npz'))
        measure(bank, features_out=path)
        found = measure(samples, query_bank=path, bank_beta=beta)
    videos, texts, owner = stacked(samples)
    bank_videos, bank_texts, _ = stacked(bank)
    scores = texts @ videos.T
    by_text = inverted(scores, bank_texts @ videos.T, beta)
    by_video = inverted(scores.T, bank_videos @ texts.T, beta).T
    check_matrices(found, '_qb', by_text, by_video, owner)


# --- Losses ---------------------------------------------------------------------------


@fuzz(
    200, names=lists(none() | sampled_from('abc'), min_size=1, max_size=8), seed=seeds,
    E=integers(1, 16), scale=floats(0.1, 100), dtype=sampled_from([torch.float32,
    torch.float64, torch.bfloat16]),
)  # fmt: skip
def test_contrastive_loss_is_the_written_out_sum(names, seed, E, scale, dtype):
    randn, B = draws(seed), len(names)
    video, text = (randn(B, E).to(dtype).requires_grad_() for _ in range(2))
    samples = [
        ActionDataSample(metainfo={} if name is None else {'video_id': name})
        for name in names
    ]
    found = contrastive_loss(
        video, text, torch.tensor(scale, dtype=dtype), video_ids(samples, B)
    )
    scale = float(torch.tensor(scale, dtype=dtype))
    expected = slow_loss(video.detach().double(), text.detach().double(), scale, names)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    found.backward()
    assert video.grad.isfinite().all() and text.grad.isfinite().all()


@fuzz(
    60, classes=lists(text(string.ascii_lowercase, min_size=1, max_size=4),
    min_size=1, max_size=6, unique=True), B=integers(1, 4), seed=seeds,
)  # fmt: skip
def test_head_is_scaled_cosine(classes, B, seed):
    config = dict(type='CLIPTextHead', text=TEXT, classes=classes, template='a {}')
    head = MODELS.build(config).eval()
    features = draws(seed)(B, 32)
    sentences = head.text(head.text.tokenize([f'a {name}' for name in classes]))
    scores = head(features)
    for b in range(B):
        for k in range(len(classes)):
            cosine = F.cosine_similarity(features[b], sentences[k], dim=0)
            expected = head.text.logit_scale.exp() * cosine
            torch.testing.assert_close(scores[b, k], expected, atol=1e-5, rtol=1e-5)
    labels = [b % len(classes) for b in range(B)]
    samples = [ActionDataSample().set_gt_label(label) for label in labels]
    expected = sum(-scores[b].log_softmax(0)[k] for b, k in enumerate(labels)) / B
    found = head.loss(features, samples)['loss_cls']
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# --- Captions -------------------------------------------------------------------------


@functools.cache
def tokenizer(max_tokens):
    return CaptionTokenize(arch=TINY, max_tokens=max_tokens)


@fuzz(200, captions=lists(text(max_size=40), min_size=1, max_size=3),
      max_tokens=integers(3, 16))  # fmt: skip
def test_tokens_keep_their_end(captions, max_tokens):
    cut = tokenizer(max_tokens)
    found = cut({'text': list(captions)})['text']
    assert found.shape == (len(captions), max_tokens) and found.dtype == torch.int64
    start, end = cut.tokenizer.sot_token_id, cut.tokenizer.eot_token_id
    for caption, ids in zip(captions, found.tolist()):
        words = cut.tokenizer.encode(caption)[: max_tokens - 2]
        rest = [0] * (max_tokens - 2 - len(words))
        assert ids == [start, *words, end, *rest]
        assert cut({'text': caption})['text'].tolist() == ids
        assert torch.tensor(ids).argmax() == len(words) + 1  # where CLIP reads


words = text(string.ascii_lowercase + "-'!", min_size=1, max_size=4)


@composite
def mirrors(draw):
    """Draw what mirrors words in pairs."""
    pairs = draw(dictionaries(words, words, min_size=1, max_size=4))
    flat = [*pairs, *pairs.values()]
    unique = len(set(flat)) == len(flat)
    return {**pairs, **{b: a for a, b in pairs.items()}} if unique else {
        'left': 'right', 'right': 'left',
    }  # fmt: skip


@fuzz(250, swap=mirrors(), data=lists(lists(integers(0, 9), max_size=8), max_size=3),
      flip=booleans())  # fmt: skip
def test_mirrored_twice_is_not_mirrored(swap, data, flip):
    """Words are exchanged one by one, and twice makes no change."""
    pool = [*swap, 'a', 'ball', 'moves', 'up']
    captions = [' '.join(pool[i % len(pool)] for i in line) for line in data]
    mirror = MirrorCaption(swap)
    once = mirror({'text': list(captions), 'flip': flip})['text']
    words = [
        ' '.join(swap.get(word, word) for word in caption.split()) if flip else caption
        for caption in captions
    ]
    assert once == words
    assert mirror({'text': once, 'flip': flip})['text'] == captions
    loud = mirror({'text': [c.upper() for c in captions], 'flip': flip})['text']
    assert [caption.lower() for caption in loud] == words


@pytest.mark.parametrize('words', [{}, {'': 'left'}, {'left': 1}])
def test_what_mirrors_nothing_is_refused(words):
    with pytest.raises(ConfigError, match='words='):
        MirrorCaption(words)
