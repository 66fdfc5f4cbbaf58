"""Compatibility of released MMAction2 and MMPretrain with current numpy.

Modules that use names or behaviour that numpy has removed are patched right after they
are imported. numpy itself is not changed, and the patches import nothing. Each patch
documents its symptom, the affected versions and when it can be deleted.
``tests/test_compat_numpy.py`` reproduces every symptom without the patch.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Optional

import numpy as np

__all__ = ['apply']


def old_names(module: ModuleType) -> None:
    """Give a module the names of numpy 1, in its own copy of the namespace.

    Symptom: ``AttributeError: `np.Inf` was removed in the NumPy 2.0 release`` (also
    ``np.NAN``), ``module 'numpy' has no attribute 'in1d'`` (``trapz``): in the pose
    transforms, ``frame_extract``, ``RetrievalRecall`` of both packages, AVA's
    average precision and ``average_recall_at_avg_proposals``. Also, after a failed
    ``ImgAug(...)`` (imgaug needs numpy 1), ``np.bool`` is Python's bool in the whole
    process, and ``np.testing.assert_allclose`` raises ``AttributeError``.
    Versions: numpy >= 2.0 (2.4 for ``in1d`` and ``trapz``) with mmaction2 <= 1.2.0 and
    mmpretrain <= 1.2.0.
    Delete when the modules in ``PATCHES`` no longer use these names.
    """
    names = {
        'Inf': np.inf,
        'NAN': np.nan,
        'in1d': lambda a, *args, **kwargs: np.isin(np.ravel(a), *args, **kwargs),
        'trapz': getattr(np, 'trapezoid', None),
    }
    own = ModuleType('numpy')
    vars(own).update({k: v for k, v in names.items() if not hasattr(np, k)})
    vars(own)['__getattr__'] = lambda name: getattr(np, name)
    vars(module)['np'] = own


def whole_numbers(module: ModuleType) -> None:
    """Let a module's ``int`` accept arrays with one number, as numpy 1 did.

    Symptom: ``TypeError: only 0-dimensional arrays can be converted to Python scalars``
    in ``MultiSportsMetric``.
    Versions: numpy >= 2.4 with mmaction2 <= 1.2.0.
    Delete when ``iou3dt_voc`` of ``multisports_utils`` takes an element first.
    """
    vars(module)['int'] = lambda x: int(x.item() if isinstance(x, np.ndarray) else x)


def turn_hue(module: ModuleType) -> None:
    """Let ``ColorJitter`` shift the hue by negative amounts.

    Symptom: ``OverflowError: Python integer -21 out of bounds for uint8`` for about
    half of the draws, and a wrong hue for large shifts, which overflow uint8.
    Versions: numpy >= 2.0 with mmaction2 <= 1.2.0.
    Delete when ``ColorJitter.adjust_hue`` adds in a wider type.
    """
    cv2 = module.cv2

    @functools.wraps(module.ColorJitter.adjust_hue)
    def adjust_hue(img: np.ndarray, factor: float) -> np.ndarray:
        # OpenCV has 180 steps of hue; MMAction2 shifts by factor * 255 steps.
        hsv = cv2.cvtColor(np.clip(img, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + int(factor * 255)) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)

    module.ColorJitter.adjust_hue = staticmethod(adjust_hue)


PATCHES: dict[str, Callable[[Any], None]] = {
    'mmaction.datasets.transforms.pose_transforms': old_names,
    'mmaction.datasets.transforms.processing': turn_hue,
    'mmaction.datasets.transforms.wrappers': old_names,
    'mmaction.evaluation.functional.accuracy': old_names,
    'mmaction.evaluation.functional.ava_evaluation.metrics': old_names,
    'mmaction.evaluation.functional.multisports_utils': whole_numbers,
    'mmaction.evaluation.metrics.multimodal_metric': old_names,
    'mmaction.utils.misc': old_names,
    'mmpretrain.evaluation.metrics.retrieval': old_names,
}


class PatchingFinder(MetaPathFinder):
    """Find the modules of ``PATCHES`` where Python would, and patch them on import."""

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]],
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if fullname not in PATCHES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: ModuleType) -> None:
                run(module)
                PATCHES[fullname](module)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def apply() -> None:
    """Patch modules imported so far and later; a second call does nothing."""
    is_old = np.lib.NumpyVersion(np.__version__) < '2.0.0'
    if is_old or any(isinstance(finder, PatchingFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, PatchingFinder())
    for name, patch in PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])
