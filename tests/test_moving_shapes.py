"""The embedded data set moving-shapes and its CLIP, pre-trained on stills."""

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import decord
import drawing
import numpy as np
import open_clip
import pytest
import safetensors
import torch
from drawing import CLASSES, MOTIONS

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / 'mmstop' / 'assets' / 'ViT-moving-shapes.safetensors'


def load_script(name: str) -> ModuleType:
    """Import tools/data/<name>.py by its path: tools/ is no package."""
    spec = importlib.util.spec_from_file_location(
        name, ROOT / 'tools' / 'data' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and the second script look it up there
    spec.loader.exec_module(module)
    return module


ms = load_script('moving_shapes')
pretrain = load_script('pretrain_moving_shapes_clip')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A data set of one split of 216 videos."""
    out = tmp_path_factory.mktemp('data') / 'moving_shapes'
    assert ms.write_data_set(out, {'val': 1}, seed=3)
    return out


@pytest.fixture(scope='module')
def clip():
    """The packaged CLIP and its tokenizer, as open_clip loads them."""
    torch.manual_seed(0)
    open_clip.add_model_config(WEIGHTS.with_suffix('.json'))
    model = open_clip.create_model('ViT-moving-shapes', pretrained=str(WEIGHTS))
    return model, open_clip.get_tokenizer('ViT-moving-shapes')


def labels_of(out: Path, split: str) -> dict[str, int]:
    lines = (out / f'{split}.txt').read_text().splitlines()
    return {name: int(label) for name, label in (line.split(' ') for line in lines)}


def test_annotations_take_the_forms_of_mmaction2(data):
    classes = (data / 'classes.txt').read_text().splitlines()
    assert classes == list(CLASSES) and len(classes) == 9
    labels = labels_of(data, 'val')
    captions = json.loads((data / 'val.json').read_text())
    assert list(captions) == list(labels)
    assert list(labels)[:2] == ['val/00000.mp4', 'val/00001.mp4']
    for name, label in labels.items():
        assert (data / 'videos' / name).is_file()
        (text,) = captions[name]
        article, colour, shape, motion = text.split(' ', 3)
        assert article == ('an' if colour == 'orange' else 'a')
        assert motion == classes[label]
        assert colour in drawing.COLOURS and shape in drawing.SHAPES
    assert not list(data.rglob('*partial*'))


def test_every_seen_pair_makes_every_motion_equally_often(data):
    captions = json.loads((data / 'val.json').read_text()).values()
    seen = {ms.caption(p, m) for p in ms.SEEN_PAIRS for m in range(9)}
    assert len(seen) == 216
    assert Counter(text for (text,) in captions) == dict.fromkeys(seen, 1)


def test_order_of_files_tells_nothing_of_the_class(data):
    labels = list(labels_of(data, 'val').values())
    # Of 215 neighbours one in nine are alike by chance, 24 with a deviation of 5.
    assert sum(a == b for a, b in zip(labels, labels[1:], strict=False)) < 45


def test_pairs_of_another_split_are_one_argument_away(tmp_path):
    ms.write_split(tmp_path, 'unseen', 1, pairs=ms.UNSEEN_PAIRS[:2])
    captions = json.loads((tmp_path / 'unseen.json').read_text())
    expected = [ms.caption(p, m) for p in ms.UNSEEN_PAIRS[:2] for m in range(9)]
    assert sorted(text for (text,) in captions.values()) == sorted(expected)
    assert set(ms.SEEN_PAIRS).isdisjoint(ms.UNSEEN_PAIRS)
    assert len(ms.SEEN_PAIRS) == len(ms.UNSEEN_PAIRS) == 24


def test_splits_share_no_video():
    starts = [
        ms.scene_of(0, split, i, (0, 0), 0)[0].start
        for split in ('train', 'val', 'test')
        for i in range(300)
    ]
    assert len(set(starts)) == 900


@pytest.mark.parametrize('motion', range(9))
def test_place_in_any_frame_is_uniform_whatever_the_class(motion):
    scenes = [ms.scene_of(0, 'x', i, (0, 0), motion)[0] for i in range(540)]
    places = np.array([drawing.centres(scene)[[0, 11, 23]] for scene in scenes])
    column, row = (places * 3 / drawing.SIZE).astype(int).transpose(2, 1, 0)
    for cell in 3 * row + column:
        chi2 = ((np.bincount(cell, minlength=9) - 60) ** 2 / 60).sum()
        assert chi2 < 32  # 8 degrees of freedom: one in 10,000 by chance


def test_speed_is_independent_of_the_direction():
    for motion in range(8):
        scenes = [ms.scene_of(0, 'x', i, (0, 0), motion)[0] for i in range(50)]
        for scene in scenes:
            step = np.diff(drawing.centres(scene), axis=0)
            step = (step + drawing.SIZE / 2) % drawing.SIZE - drawing.SIZE / 2
            np.testing.assert_allclose(np.hypot(*step.T), scene.travel / 23)
            assert 20 <= scene.travel <= 45
            np.testing.assert_allclose(
                step[0] / np.hypot(*step[0]),
                MOTIONS[CLASSES[motion]],
                atol=1e-9,
            )


def test_reversed_clip_is_a_clip_of_the_opposite_direction():
    """So the frames, as a set, carry no class."""
    right, left = (CLASSES.index(f'moving to the {d}') for d in ('right', 'left'))
    scene, rng = ms.scene_of(0, 'x', 0, (1, 3), left)
    backwards = replace(scene, motion=right, start=tuple(drawing.centres(scene)[-1]))
    clip = drawing.render_clip(scene, rng).astype(float)
    other = drawing.render_clip(backwards, rng).astype(float)
    assert abs(clip[::-1] - other).mean() < 8  # two draws of noise of deviation 6
    assert abs(clip - other).mean() > 15


def test_still_class_does_not_move_but_no_two_frames_are_equal():
    scene, rng = ms.scene_of(0, 'x', 0, (0, 0), CLASSES.index('standing still'))
    assert np.ptp(drawing.centres(scene), axis=0).max() == 0
    clip = drawing.render_clip(scene, rng)
    assert clip.shape == (24, 56, 56, 3) and clip.dtype == np.uint8
    assert all((a != b).mean() > 0.8 for a, b in zip(clip, clip[1:], strict=False))


def test_shape_leaves_at_one_edge_and_enters_at_the_opposite():
    scene, rng = ms.scene_of(0, 'x', 0, (1, 7), 8)  # a white square
    scene = replace(scene, start=(0.0, 28.0))
    frame = drawing.render_frame(scene, rng)
    assert frame[28, [0, 55]].min() > 200 and frame[28, 28].max() < 180


@pytest.mark.parametrize('colour', range(8))
def test_decoded_video_has_the_size_length_and_colours_written(tmp_path, colour):
    scene, rng = ms.scene_of(0, 'x', colour, (1, colour), 0)
    ms.encode(tmp_path / 'a.mp4', drawing.render_clip(scene, rng))
    reader = decord.VideoReader(str(tmp_path / 'a.mp4'))
    frames = reader.get_batch(range(len(reader))).asnumpy()
    assert frames.shape == (24, 56, 56, 3) and reader.get_avg_fps() == 12
    for frame, (x, y) in zip(frames, drawing.centres(scene), strict=True):
        rows, columns = (np.arange(int(c) - 2, int(c) + 3) % 56 for c in (y, x))
        mean = frame[np.ix_(rows, columns)].mean((0, 1))
        np.testing.assert_allclose(mean, scene.rgb, atol=20)


def test_same_seed_draws_the_same_frames():
    draws = [
        drawing.render_clip(*ms.scene_of(seed, 'train', 5, (2, 4), 1))
        for seed in (0, 0, 1)
    ]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


def test_complete_data_set_is_reused(data):
    before = {p: p.stat().st_mtime_ns for p in data.rglob('*.*')}
    assert not ms.write_data_set(data, {'val': 1}, seed=3)
    assert before == {p: p.stat().st_mtime_ns for p in data.rglob('*.*')}


def test_other_parameters_are_refused_with_the_way_out(data):
    with pytest.raises(FileExistsError, match=r"'seed': 3.*'seed': 4.*--overwrite"):
        ms.write_data_set(data, {'val': 1}, seed=4)


def test_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / 'videos').mkdir()
    with pytest.raises(FileExistsError, match='did not write.*another folder'):
        ms.write_data_set(tmp_path, {'test': 1}, overwrite=True)


@pytest.mark.parametrize('harm', ['interrupted', 'video lost', 'annotation changed'])
def test_incomplete_data_set_is_redone(tmp_path, harm):
    task = ms.MOVING_SHAPES._replace(seen=ms.SEEN_PAIRS[:1])
    write, out = partial(ms.write_data_set, task=task), tmp_path / 'out'
    assert write(out, {'test': 1})
    if harm == 'interrupted':
        (out / 'meta.json').rename(out / 'meta.started')
    elif harm == 'video lost':
        (out / 'videos' / 'test' / '00003.mp4').unlink()
    else:
        (out / 'test.txt').write_text('')
    assert write(out, {'test': 1})
    assert len(labels_of(out, 'test')) == len(list(out.rglob('*.mp4'))) == 9
    assert not write(out, {'test': 1})
    assert write(out, {'test': 1}, seed=1, overwrite=True)


def test_captions_of_stills_never_speak_of_motion():
    rng = np.random.default_rng(0)
    keep = [(0, 1, 2), *pretrain.KEPT]
    texts = {pretrain.describe(k, rng, kept) for k in pretrain.KINDS for kept in keep}
    words = {word for text in texts for word in text.split()}
    assert not words & {'moving', 'standing', 'still', 'motion', 'moves'}
    assert {'red', 'ring', 'upper', 'left', 'middle'} <= words
    assert pretrain.describe((0, 0, 0)) == 'a red circle on the upper left'
    assert pretrain.describe((6, 0, 4), kept=(0,)) == 'an orange shape'


def test_packaged_weights_are_small_half_precision_and_complete(clip):
    assert WEIGHTS.stat().st_size <= 8_000_000
    with safetensors.safe_open(WEIGHTS, 'pt') as file:
        assert set(file.keys()) == set(clip[0].state_dict())
        assert {str(file.get_tensor(k).dtype) for k in file.keys()} == {'torch.float16'}


def test_packaged_clip_knows_colour_shape_and_place_of_stills(clip):
    """Chance is 1/8, 1/6, 1/9; the script measured more, see the metrics' file."""
    kinds = np.random.default_rng(1).permutation(pretrain.KINDS)[:216]
    stills = [
        pretrain.draw_still(ms.generator(7, 'fresh', i), k) for i, k in enumerate(kinds)
    ]
    right = pretrain.zero_shot(*clip, torch.from_numpy(np.stack(stills)), kinds)
    assert right['colour'] > 0.9
    assert right['shape'] > 0.8
    assert right['place'] > 0.8
