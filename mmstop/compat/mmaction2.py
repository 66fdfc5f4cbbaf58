"""Patches for MMAction2 1.2.0: a missing subpackage, and newer transformers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.registry import MODELS
from mmengine.utils import digit_version

__all__ = ['find_missing_drn', 'import_statistics_later', 'skip_vindlu']

STATISTICS = 'scipy.stats'


class DRN:
    """Stand in for MMAction2's DRN, which cannot be built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            'got type DRN, but the mmaction2 1.2.0 wheel on PyPI was released without '
            'mmaction/models/localizers/drn; to train DRN install MMAction2 from source'
        )


def find_missing_drn() -> None:
    """Let ``import mmaction.models`` succeed without its DRN localizer.

    Symptom: ``ModuleNotFoundError: No module named 'mmaction.models.localizers.drn'``.
    Versions: mmaction2 1.2.0 from PyPI; its source checkout has the directory.
    Delete when a release of mmaction2 contains ``models/localizers/drn``.
    """
    spec = find_spec('mmaction')
    localizers = Path((spec and spec.origin) or '').parent / 'models' / 'localizers'
    if not localizers.is_dir() or (localizers / 'drn').is_dir():
        return
    for name in ('drn', 'drn.drn'):
        module: Any = ModuleType(f'mmaction.models.localizers.{name}')
        module.DRN = DRN
        sys.modules[module.__name__] = module
    MODELS.register_module(module=DRN)


def skip_vindlu() -> None:
    """Keep MMAction2 from importing VindLU with an incompatible transformers.

    Symptom: ``ImportError: cannot import name 'apply_chunking_to_forward' from
    'transformers.modeling_utils'`` at ``import mmaction.models``. With the patch,
    VindLU is the placeholder that users without transformers get.
    Versions: transformers >= 4.56 with mmaction2 <= 1.2.0.
    Delete when a later mmaction2 is required.
    """
    try:
        found = metadata.version('transformers')
        if digit_version(found) < digit_version('4.56'):
            return
        import mmaction
        from mmaction.utils import dependency
    except ImportError:  # importing MMAction2 itself will report what is missing
        return
    if digit_version(mmaction.__version__) <= digit_version('1.2.0'):
        dependency.WITH_MULTIMODAL = False


@contextmanager
def import_statistics_later() -> Iterator[None]:
    """Let MMAction2 be imported without SciPy's statistics.

    Symptom: ``import mmaction.datasets`` loads 500 modules of SciPy, which take a
    second, because a transform for skeletons uses ``scipy.stats.mode``.
    Versions: every known mmaction2.
    Delete when ``pose_transforms`` imports ``mode`` where it uses it.
    """
    if STATISTICS in sys.modules:
        yield
        return

    def load(name: str) -> Any:
        if name.startswith('__'):  # import statements and inspect look for these
            raise AttributeError(name)
        if sys.modules.get(STATISTICS) is stub:
            del sys.modules[STATISTICS]
        return getattr(import_module(STATISTICS), name)

    stub: Any = ModuleType(STATISTICS)
    sys.modules[STATISTICS] = stub
    stub.mode = lambda *args, **kwargs: load('mode')(*args, **kwargs)
    stub.__getattr__ = load
    try:
        yield
    finally:
        if sys.modules.get(STATISTICS) is stub:
            del sys.modules[STATISTICS]
