"""The two harder kin of moving-shapes: what they show, and what the blind see."""

from collections import Counter, defaultdict
from itertools import product

import drawing
import harder_shapes as harder
import moving_shapes as one
import numpy as np
import pytest
from drawing import CLASSES, MOTIONS

DISTRACTORS, TEMPO = harder.TASKS['distractors'], harder.TASKS['tempo']
RGB = np.array(list(drawing.COLOURS.values()))


@pytest.fixture
def scenes(monkeypatch):
    """What is painted, one (scene, places) after the other."""
    painted = []
    paint = drawing.paint

    def keep(background, scene, places):
        painted.append((scene, places))
        return paint(background, scene, places)

    monkeypatch.setattr(drawing, 'paint', keep)
    return painted


def film(task, index, label):
    rng = one.generator(0, 'test', index)
    return task.film(rng, task.seen[index % len(task.seen)], label)


def nearest_colour(scene):
    return int(np.square(RGB - scene.rgb).sum(1).argmin())


def test_the_class_is_the_motion_of_the_red_shape(scenes):
    """The others have other colours and motions: seeing all three says 1 in 3."""
    for index in range(90):
        frames = film(DISTRACTORS, index, index % 9)
        assert frames.shape == (24, 56, 56, 3) and frames.dtype == np.uint8
        shown, scenes[:] = [scene for scene, _ in scenes], []
        red = [scene for scene in shown if nearest_colour(scene) == harder.RED]
        assert len(shown) == 3 and [scene.motion for scene in red] == [index % 9]
        assert len({scene.motion for scene in shown}) == 3
        assert shown[-1] is red[0]  # in front, so that it can be seen


def test_distractors_drift_and_move_as_they_say():
    """In every frame the red shape is where its motion brings it."""
    for index in range(8):
        frames = film(DISTRACTORS, index, index)
        red = np.abs(frames - RGB[harder.RED].astype(float)).max(-1) < 45
        assert red.any((1, 2)).all()
        # On the torus, the mean direction of the red pixels' angle is their centre.
        angle = np.exp(2j * np.pi * np.arange(56) / 56)
        x, y = (red * angle).sum((1, 2)), (red * angle[:, None]).sum((1, 2))
        moved = [np.angle(z[6:] / z[:-6]).mean() for z in (x, y)]
        assert np.dot(moved, MOTIONS[CLASSES[index]]) > 0.9 * np.hypot(*moved)
        corner = frames[:, :8, :8].astype(float)
        assert not np.allclose(corner[0], corner[-1], atol=30)


def test_tempi_differ_in_the_order_of_their_places_alone(scenes):
    """Two pairs of classes are bags of the same places, by reversal and by order."""
    once, twice, faster, slower = map(harder.course, range(4))
    np.testing.assert_array_equal(np.sort(once), np.sort(twice))
    np.testing.assert_allclose(faster[::-1], 1 - slower, atol=1e-12)
    assert (np.diff(faster, 2) > 0).all() and (np.diff(slower, 2) < 0).all()
    turns = [
        (np.diff(np.sign(np.diff(way)[np.diff(way) != 0])) != 0).sum()
        for way in (once, twice)
    ]
    assert turns == [1, 3]
    for label in range(4):
        for index in range(6):
            film(TEMPO, index, label)
            (scene, places), scenes[:] = scenes[0], []
            direction = np.array(MOTIONS[CLASSES[scene.motion]])
            way = scene.travel * harder.course(label)
            expected = (scene.start + way[:, None] * direction) % 56
            np.testing.assert_allclose(places, expected)


def test_what_a_bag_of_six_frames_tells_of_the_tempo():
    """One of every four frames, as the configs sample: at most 66 % are right.

    The best classifier of bags picks the class of which a bag is more likely. That bags
    tell forth and back from one way is granted.
    """
    bags = defaultdict(Counter)
    for tempo in (0, 1):
        places = np.rint(harder.course(tempo) * 11).astype(int).reshape(6, 4)
        for frames in product(*places):
            bags[tuple(sorted(frames))][tempo] += 1
    right = sum(max(found.values()) for found in bags.values()) / (2 * 4**6)
    # Slower is faster played backwards, and backwards the sampling is the same.
    assert (right + 0.5) / 2 == 0.65625


@pytest.mark.parametrize('name', harder.TASKS)
def test_command_writes_balanced_splits(name, tmp_path, capsys):
    arguments = [name, '--out', str(tmp_path / 'set')]
    for split in one.SHARES:
        arguments += [f'--{split}', '1']
    harder.main(arguments)
    task = harder.TASKS[name]
    classes = (tmp_path / 'set' / 'classes.txt').read_text().splitlines()
    assert tuple(classes) == task.classes
    for split in one.SHARES:
        lines = (tmp_path / 'set' / f'{split}.txt').read_text().splitlines()
        pairs = task.unseen if split == 'unseen' else task.seen
        counts = Counter(int(line.split()[1]) for line in lines)
        assert counts == dict.fromkeys(range(len(classes)), len(pairs))
    total = f'{(3 * len(task.seen) + len(task.unseen)) * len(classes)} videos'
    assert f'{total} written' in capsys.readouterr().out
    harder.main(arguments)
    assert f'{total} already there' in capsys.readouterr().out
