"""Questions about single videos: ``VideoCLIP``, and MMAction2's own APIs."""

import importlib.util
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from faulty_videos import write_frames
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.fileio import load
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from tiny import TINY
from tiny_run import (
    COLOURS,
    ROOT,
    train_wildly,
    write_tiny_retrieval,
    write_tiny_run,
)

from mmstop.apis import VideoCLIP, list_videos
from mmstop.apis.sources import absolute
from mmstop.errors import ConfigError
from mmstop.models import CLIPTextHead

from mmaction.apis import (  # isort: skip
    ActionRecogInferencer,
    inference_recognizer,
    init_recognizer,
)


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_test_tool(config: Path, checkpoint: Path) -> list[dict]:
    """Return what tools/test.py predicts, in the order of the test list."""
    dump = config.parent / f'{config.stem}.pkl'
    arguments = [config, checkpoint, '--dump', dump]
    assert tool('test').main([str(a) for a in arguments]) == 0
    return load(str(dump))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('tiny')


@pytest.fixture(scope='module')
def recognition(folder):
    config = write_tiny_run(folder)
    return config, train_wildly(config)


@pytest.fixture(scope='module')
def retrieval(folder):
    config = write_tiny_retrieval(folder)
    return config, train_wildly(config)


@pytest.fixture(scope='module')
def clip(recognition):
    return VideoCLIP.from_config(*recognition, device='cpu')


@pytest.fixture(scope='module')
def videos(recognition, folder):
    """The test videos of the recognizer, in order."""
    lines = (folder / 'test.txt').read_text().splitlines()
    return [str(folder / 'videos' / line.split()[0]) for line in lines]


def test_recognition_is_that_of_the_test_tool(recognition, clip, videos):
    tested = run_test_tool(*recognition)
    found = clip.classify(videos, topk=3, batch_size=3, num_workers=1)
    for predictions, sample in zip(found, tested, strict=True):
        scores = [
            sample['pred_score'][list(COLOURS).index(p.label)] for p in predictions
        ]
        np.testing.assert_allclose([p.score for p in predictions], scores, rtol=1e-5)
        assert scores == sorted(scores, reverse=True)
        assert list(COLOURS)[int(sample['pred_label'])] == predictions[0].label
    # That the weights of the checkpoint are in it: the videos' scores differ.
    assert len({round(p[0].score, 6) for p in found}) > 1


def test_retrieval_is_that_of_the_test_tool(retrieval, folder):
    tested = run_test_tool(*retrieval)
    clip = VideoCLIP.from_config(*retrieval, device='cpu')
    captions = load(str(folder / 'test.json'))
    rows = clip.encode_video([folder / 'videos' / name for name in captions])
    for row, sample, texts in zip(rows, tested, captions.values(), strict=True):
        features = sample['features']
        np.testing.assert_allclose(row, features['video_feature'], atol=1e-6)
        np.testing.assert_allclose(
            clip.encode_text(texts), features['text_feature'], atol=1e-6
        )
    assert rows.dtype == np.float32
    # The config's CaptionTokenize cuts at 16 tokens.
    np.testing.assert_array_equal(*clip.encode_text(['a ' * 20, 'a ' * 30]))


def test_several_clips_are_averaged_as_in_testing(recognition, videos, folder):
    config = Config.fromfile(recognition[0])
    config.test_dataloader.dataset.pipeline[1].num_clips = 2
    path = folder / 'two_clips.py'
    config.dump(path)
    (sample, *_) = run_test_tool(path, recognition[1])
    clip = VideoCLIP.from_config(path, recognition[1], device='cpu')
    (predictions,) = clip.classify(videos[0])
    scores = [sample['pred_score'][list(COLOURS).index(p.label)] for p in predictions]
    np.testing.assert_allclose([p.score for p in predictions], scores, rtol=1e-5)


def test_frames_in_memory_are_those_of_the_file(clip, videos):
    path = videos[0]
    with DefaultScope.overwrite_default_scope('mmaction'):
        decoded = Compose([dict(type='DecordInit')])(dict(filename=path))
    frames = decoded['video_reader'].get_batch(range(8)).asnumpy()
    rows = clip.encode_video([path, frames, torch.from_numpy(frames)], batch_size=2)
    np.testing.assert_allclose(rows[1:], rows[[0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert clip.encode_video(frames).shape == (1, clip.text.out_dim)


OPENERS = [
    dict(type='DecordInit'),
    dict(type='PyAVInit'),
    dict(type='OpenCVInit'),
    dict(type='CheckedDecordInit', decoder='decord'),
]


@pytest.mark.parametrize('opener', OPENERS)
def test_whatever_opens_frames_are_exact(recognition, clip, videos, opener):
    kind = opener['type'].removesuffix('Init').removeprefix('Checked')
    steps = 'test_dataloader.dataset.pipeline'
    options = {f'{steps}.0.{key}': value for key, value in opener.items()}
    options[f'{steps}.2.type'] = f'{kind}Decode'
    made = [
        VideoCLIP.from_config(*recognition, 'cpu', decoder, options)
        for decoder in (None, 'pyav', 'decord')
    ]
    named = 'decord' if 'decoder' in opener else 'pyav'
    assert [c.decoder for c in made] == [named, 'pyav', 'decord']
    assert [c.pipelines[0].transforms[0].decoder for c in made] == [
        named,
        'pyav',
        'decord',
    ]
    exact = [c.identity.fingerprint == clip.identity.fingerprint for c in made]
    assert exact == [named == 'pyav', True, False]
    cosines = (made[0].encode_video(videos) * clip.encode_video(videos)).sum(1)
    assert cosines.min() > 0.9999


def test_a_header_need_not_count_the_frames(clip, tmp_path):
    """Matroska has none."""
    path = tmp_path / 'red.mkv'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('mpeg4', rate=8)
        stream.width = stream.height = 64
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert not np.isnan(clip.encode_video(path)).any()


def test_unreadable_videos_leave_their_places(clip, videos, tmp_path):
    good, bad, empty = videos[0], tmp_path / 'a.mp4', tmp_path / 'b.mp4'
    bad.write_text('no video'), empty.touch()
    with pytest.warns(UserWarning, match='[ab].mp4 cannot be read: .') as caught:
        rows = clip.encode_video([str(bad), good, str(empty)], batch_size=2)
    assert len(caught) == 2
    assert np.isnan(rows[[0, 2]]).all()
    np.testing.assert_allclose(rows[1], clip.encode_video(good)[0], atol=1e-6)
    errors = {}
    found = clip.classify([good, bad], on_error=errors.__setitem__)
    assert len(found[0]) == 3 and found[1] == [] and list(errors) == [str(bad)]


def test_damaged_files_are_reported_whatever_the_config_opens_with(
    recognition, tmp_path
):
    """MMAction2's ``DecordInit`` ends the process on half an AVI file."""
    cut = tmp_path / 'cut.avi'
    whole = write_frames(cut, fourcc='XVID')
    cut.write_bytes(whole[: len(whole) // 2])
    opener = {'test_dataloader.dataset.pipeline.0.type': 'DecordInit'}
    for decoder in (None, 'decord'):
        clips = [
            VideoCLIP.from_config(*recognition, 'cpu', decoder, opener),
            VideoCLIP.from_config(*recognition, 'cpu', decoder),
            VideoCLIP.from_clip(TINY, None, 3, 'cpu', decoder or 'decord'),
        ]
        for clip in clips:
            with pytest.warns(UserWarning, match='cut.avi .*read: .*is cut short'):
                assert np.isnan(clip.encode_video(cut)).all()


def test_any_labels(clip, videos):
    video = videos[0]
    (found,) = clip.classify(video, ['a Dog', 'a cat'], template='this is {}')
    assert {p.label for p in found} == {'a Dog', 'a cat'}
    texts = clip.encode_text([f'this is {p.label}' for p in found])
    logits = clip.text.logit_scale.exp().item() * texts @ clip.encode_video(video)[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose([p.score for p in found], expected, rtol=1e-4)
    # The config's own template is '{}'.
    (own,) = clip.classify(video, ['a Dog', 'a cat'])
    assert own == clip.classify(video, ['a Dog', 'a cat'], template='{}')[0] != found
    assert len(clip.classify(video, 'ucf101', topk=2)[0]) == 2
    (both,) = clip.classify(video, ['a Dog', 'a cat'], template=['this is {}', '{}'])
    row = clip.encode_video(video)[0]
    for label, score in both:  # a softmax over two classes
        texts = clip.encode_text([f'this is {label}', label]).mean(0)
        others = 'a cat' if label == 'a Dog' else 'a Dog'
        rest = clip.encode_text([f'this is {others}', others]).mean(0)
        units = [x / np.linalg.norm(x) for x in (texts, rest)]
        gap = clip.text.logit_scale.exp().item() * (units[0] - units[1]) @ row
        np.testing.assert_allclose(score, 1 / (1 + np.exp(-gap)), rtol=1e-4)
    with pytest.raises(ValueError, match="template='a dog' has no '{}'"):
        clip.classify(video, template='a dog')
    with pytest.raises(ValueError, match='labels is empty'):
        clip.classify(video, [])


def test_nothing_but_clip(videos):
    clip = VideoCLIP.from_clip(TINY, None, num_frames=3, device='cpu')
    video = videos[0]
    assert clip.encode_text([]).shape == (0, clip.text.out_dim)
    assert clip.encode_text('red').shape == (1, clip.text.out_dim)
    with pytest.raises(ValueError, match='has no classes of its own; give labels'):
        clip.classify(video)
    # Its template is that of CLIPTextHead.
    head = CLIPTextHead(dict(type='CLIPText', arch=TINY, weights=None), ['red', 'blue'])
    by_head = head(torch.from_numpy(clip.encode_video(video))).softmax(-1)[0]
    scores = {p.label: p.score for p in clip.classify(video, ['red', 'blue'])[0]}
    np.testing.assert_allclose([scores['red'], scores['blue']], by_head.detach(), 1e-5)


def test_list_videos(tmp_path):
    for name in ('b.mp4', 'a.MOV', 'in/c.webm', 'notes.txt'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = lambda *s: [str(Path(p).relative_to(tmp_path)) for p in list_videos(s)]  # noqa: E731
    assert names(tmp_path) == ['a.MOV', 'b.mp4', 'in/c.webm']
    assert names(f'{tmp_path}/*.mp4', tmp_path / 'notes.txt') == ['b.mp4', 'notes.txt']
    assert names(f'{tmp_path}/**/*.webm') == ['in/c.webm']
    (tmp_path / '[x].mp4').touch()  # a file before a pattern
    assert names(str(tmp_path / '[x].mp4')) == ['[x].mp4']
    with pytest.raises(FileNotFoundError, match="none.mp4' is neither a file nor"):
        list_videos(f'{tmp_path}/none.mp4')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"empty' is a folder without a video \("
    ):
        list_videos(tmp_path / 'empty')


def test_list_videos_follows_links_once(tmp_path):
    """Loops, links out, links to what is there anyway, and links to nothing."""
    top, elsewhere = tmp_path / 'top', tmp_path / 'elsewhere'
    for path in ('top/z/a.mp4', 'elsewhere/deep/b.mp4', 'elsewhere/c.mp4'):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (top / 'loop').symlink_to(top)
    (top / 'a_link').symlink_to(top / 'z')  # before z, which has the files' own name
    (top / 'out').symlink_to(elsewhere)
    (elsewhere / 'back').symlink_to(top / 'z')
    (top / 'file.mp4').symlink_to(elsewhere / 'c.mp4')
    (top / 'dangling.mp4').symlink_to(tmp_path / 'none.mp4')
    os.mkfifo(top / 'pipe.mp4')
    expected = ['file.mp4', 'out/c.mp4', 'out/deep/b.mp4', 'z/a.mp4']
    assert list_videos(top) == [str(top / name) for name in expected]
    (tmp_path / 'link').symlink_to(top)
    assert list_videos(tmp_path / 'link')[0] == str(tmp_path / 'link' / 'file.mp4')


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    """Or an index would forget what is in it."""
    (tmp_path / 'in').mkdir()
    (tmp_path / 'a.mp4').touch()
    scandir = os.scandir

    def fail(path):
        if str(path).endswith('in'):
            raise PermissionError(13, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', fail)
    with pytest.raises(
        OSError, match='in cannot be listed: Permission denied; its vid'
    ):
        list_videos(tmp_path)


def test_absolute(tmp_path, monkeypatch):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    (tmp_path / 'c').symlink_to(tmp_path / 'a' / 'b')
    monkeypatch.chdir(tmp_path)
    assert absolute('a/../a/b') == str(tmp_path / 'a' / 'b')
    assert absolute('c') == str(tmp_path / 'c')
    assert absolute('c/..') == str(tmp_path / 'a')  # which is where the kernel goes


def test_fingerprint(recognition, clip, folder):
    config, checkpoint = recognition
    loose = {'default_hooks.checkpoint.strict': False}
    options = {'model.cls_head.template': 'all {}', **loose}
    same = VideoCLIP.from_config(config, checkpoint, options=options)
    assert same.identity.fingerprint == clip.identity.fingerprint
    options = {'model.backbone.alpha': 0.5, **loose}
    config_differs = VideoCLIP.from_config(config, checkpoint, options=options)
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint))
    name = next(n for n in loaded['state_dict'] if n.endswith('weight'))
    loaded['state_dict'][name].view(-1)[0] += 1e-3
    torch.save(loaded, folder / 'other.pth')
    weights_differ = VideoCLIP.from_config(config, folder / 'other.pth')
    prints = {c.identity.fingerprint for c in (clip, config_differs, weights_differ)}
    assert len(prints) == 3


def test_what_is_at_fault(recognition, clip, tmp_path):
    config, checkpoint = recognition

    def refuses(kind, match, config=config, checkpoint=checkpoint, **kwargs):
        with pytest.raises(kind, match=match):
            VideoCLIP.from_config(config, checkpoint, **kwargs)

    refuses(ConfigError, 'no such file', tmp_path / 'none.py')
    refuses(FileNotFoundError, 'none.pth', checkpoint=tmp_path / 'none.pth')
    refuses(ValueError, r'no checkpoint given, but [\d,]+ param', checkpoint=None)
    refuses(ValueError, "device='cuda:99' cannot be used here: .", device='cuda:99')
    refuses(
        ValueError,
        r"decoder='vlc', expected one of \['pyav', 'decord'\]",
        decoder='vlc',
    )
    refuses(ConfigError, 'alhpa', options={'model.backbone.alhpa': 0.5})
    others = {'model.cls_head.classes': ['one', 'two']}
    refuses(ValueError, 'trained on other classes', options=others)
    others = {'model.backbone.alpha': 0.5}
    refuses(
        ValueError, r'other arguments: .*alpha=0\.4 instead of 0\.5', options=others
    )
    without = {'model.backbone.num_spatial': 0}
    refuses(ValueError, 'does not fit the model of .*has parameters', options=without)
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline.pop(0)
    with pytest.raises(ValueError, match='does not read videos; it needs'):
        VideoCLIP(cfg, checkpoint)
    cfg.test_dataloader = None
    with pytest.raises(ValueError, match='has no test_dataloader.dataset.pipeline'):
        VideoCLIP(cfg, checkpoint)
    cfg = Config.fromfile(config)
    cfg.model.cls_head = dict(type='TimeSformerHead', num_classes=3, in_channels=32)
    with pytest.raises(
        ValueError, match='Recognizer3D with TimeSformerHead has no text'
    ):
        VideoCLIP(cfg, None)
    with pytest.raises(ValueError, match=r'shape \(4, 8, 8\), expected \(T, H, W, 3\)'):
        clip.encode_video(np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(ValueError, match='frames of float64, expected uint8'):
        clip.encode_video([np.zeros((4, 8, 8, 3))])


# --- MMAction2's own --------------------------------------------------------------


def test_inference_recognizer(recognition, videos):
    config, checkpoint = recognition
    tested = run_test_tool(config, checkpoint)
    cfg = Config.fromfile(config)
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    model = init_recognizer(cfg, str(checkpoint), device='cpu')
    for video, sample in zip(videos, tested):
        result = inference_recognizer(model, video)
        torch.testing.assert_close(result.pred_score, sample['pred_score'])


def test_inferencer(recognition, videos):
    config, checkpoint = recognition
    tested = run_test_tool(config, checkpoint)
    inferencer = ActionRecogInferencer(str(config), str(checkpoint), device='cpu')
    results = inferencer(videos, batch_size=2)['predictions']
    for result, sample in zip(results, tested, strict=True):
        np.testing.assert_allclose(
            result['pred_scores'], sample['pred_score'], rtol=1e-5
        )
