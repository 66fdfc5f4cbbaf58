"""Every patch works, and every symptom is still there without it."""

import builtins
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_run import COLOURS, SIZE, write_video

from mmstop.compat import numpy2

METRICS = 'mmaction.evaluation.metrics.multimodal_metric'
FUNCTIONS = 'mmaction.evaluation.functional'
TRANSFORMS = 'mmaction.datasets.transforms'


def retrieval_recall(module: Any, tmp_path: Path) -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]])
    targets = torch.tensor([[0, 0, 1], [1, 0, 0]])
    first, second = module.RetrievalRecall.calculate(scores, targets, topk=(1, 2))
    assert (first, second) == (50, 100)


def average_recall(module: Any, tmp_path: Path) -> None:
    truth = {'video': np.array([[0.0, 1.0], [2.0, 3.0]])}
    found = {'video': np.array([[0.0, 1.0, 0.9], [2.0, 3.0, 0.8]])}
    recall, mean, number, area = module.average_recall_at_avg_proposals(truth, found, 2)
    np.testing.assert_array_equal(mean, [0] * 49 + [0.5] * 50 + [1])
    # trapezoids of 0.02 in width below that curve, over 2 proposals
    assert area == pytest.approx(100 * 0.02 * (0.25 + 49 * 0.5 + 0.75) / 2)


def precision_without_truth(module: Any, tmp_path: Path) -> None:
    assert np.isnan(module.compute_average_precision(None, None))


def tubes(module: Any, tmp_path: Path) -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    one = np.array([[frame, *box] for frame in (1, 2, 3, 4)])
    other = np.array([[frame, *box] for frame in (3, 4, 5)])
    assert module.iou3dt_voc(one, other, temporalonly=True) == pytest.approx(1 / 4)
    assert module.iou3dt_voc(one, other, spatialonly=True) == 1


def pose(module: Any, tmp_path: Path) -> None:
    points = np.zeros((1, 1, 2, 2))
    points[..., 0, :], points[..., 1, :] = (40, 50), (60, 90)
    frame = dict(img_shape=(100, 200), keypoint=points, imgs=[np.zeros((100, 200, 3))])
    compact = module.PoseCompact(padding=0.0, threshold=1)(frame)
    assert compact['img_shape'] == (40, 20)
    assert compact['keypoint'].tolist() == [[[[0, 0], [20, 40]]]]


def extract(module: Any, tmp_path: Path) -> None:
    write_video(tmp_path / 'red.mp4', COLOURS['red'])
    paths, frames = module.frame_extract(
        str(tmp_path / 'red.mp4'), SIZE // 2, str(tmp_path)
    )
    assert len(paths) == 8 and frames[0].shape == (SIZE // 2, SIZE // 2, 3)


def theirs(module: Any, tmp_path: Path) -> None:
    recall = module.RetrievalRecall.calculate([[1, 2]], [[2]], (1, 2), True, True)
    assert recall == [0, 100]
    precision = module.RetrievalAveragePrecision
    value = precision.calculate([[0, 1]], [[1]], 2, True, True)
    assert value == 50  # found at the second rank


@pytest.mark.parametrize(
    ('name', 'use'),
    [
        (METRICS, retrieval_recall),
        (f'{FUNCTIONS}.accuracy', average_recall),
        (f'{FUNCTIONS}.ava_evaluation.metrics', precision_without_truth),
        (f'{FUNCTIONS}.multisports_utils', tubes),
        (f'{TRANSFORMS}.pose_transforms', pose),
        ('mmaction.utils.misc', extract),
        ('mmpretrain.evaluation.metrics.retrieval', theirs),
    ],
)
@pytest.mark.skipif(hasattr(np, 'trapz'), reason='before numpy 2.4 nothing fails')
def test_patched_module_works_and_fails_without(
    name: str, use: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(name)
    use(module, tmp_path)
    monkeypatch.setattr(module, 'np', np)
    monkeypatch.setattr(module, 'int', builtins.int, raising=False)
    with pytest.raises((AttributeError, TypeError), match='numpy|NumPy|0-dimensional'):
        use(module, tmp_path)


def test_numpy_itself_stays_as_it_is() -> None:
    for name in numpy2.PATCHES:
        importlib.import_module(name)
    assert not any(hasattr(np, name) for name in ('Inf', 'NAN', 'in1d', 'trapz'))


@pytest.mark.parametrize('factor', [-0.5, -0.08, 0.1, 0.5])
def test_hue_turns_both_ways(factor: float) -> None:
    jitter = importlib.import_module(f'{TRANSFORMS}.processing').ColorJitter
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue = (hsv[..., 0].astype(float) + int(factor * 255)) % 180
    expected = np.dstack([hue.astype(np.uint8), hsv[..., 1:]])
    expected = cv2.cvtColor(expected, cv2.COLOR_HSV2RGB)
    np.testing.assert_array_equal(jitter.adjust_hue(image, factor), expected)
    if factor < 0:
        with pytest.raises(OverflowError, match='out of bounds for uint8'):
            jitter.adjust_hue.__wrapped__(image, factor)
    jitter(hue=0.5)(dict(imgs=[image] * 20))  # 20 draws in one


def test_imgaug_leaves_numpy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wrappers = importlib.import_module(f'{TRANSFORMS}.wrappers')
    monkeypatch.setitem(sys.modules, 'imgaug', None)  # installed or not, it fails
    monkeypatch.setattr(np, 'bool', np.bool)  # put back in the end
    with pytest.raises(ImportError):
        wrappers.ImgAug('default')
    assert np.bool is np.bool_
    monkeypatch.setattr(wrappers, 'np', np)
    with pytest.raises(ImportError):
        wrappers.ImgAug('default')
    assert np.bool is bool, 'the symptom'


def test_modules_are_patched_whenever_they_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ('imported_early', 'imported_late'):
        (tmp_path / f'{name}.py').write_text('import numpy as np')
        monkeypatch.setitem(numpy2.PATCHES, name, numpy2.old_names)
    finders = [f for f in sys.meta_path if type(f).__name__ != 'PatchingFinder']
    number = len(sys.meta_path)
    assert len(finders) == number - 1
    monkeypatch.setattr(sys, 'meta_path', finders)
    early = importlib.import_module('imported_early')
    assert early.np is np
    for _ in range(2):
        numpy2.apply()
    assert len(sys.meta_path) == number
    for module in (early, importlib.import_module('imported_late')):
        assert module.np.Inf == np.inf and module.np.array is np.array


def test_patches_import_nothing() -> None:
    code = (
        f'import runpy, sys; runpy.run_path({numpy2.__file__!r})["apply"]();'
        'print(sorted({m.partition(".")[0] for m in sys.modules} & '
        '{"mmaction", "mmpretrain", "mmengine", "torch", "cv2"}))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')
