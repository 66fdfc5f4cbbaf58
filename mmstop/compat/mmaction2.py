"""Patches for MMAction2 1.2.0: a missing subpackage, and newer transformers."""

import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any, Optional

from mmengine.utils import digit_version

__all__ = ['find_missing_drn', 'skip_vindlu']


class DRN:
    """Stand in for MMAction2's DRN, which cannot be built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            'got type DRN, but the mmaction2 1.2.0 wheel on PyPI was released without '
            'mmaction/models/localizers/drn; to train DRN install MMAction2 from source'
        )


class DRNFinder(MetaPathFinder, Loader):
    """Provide ``mmaction.models.localizers.drn`` if no other finder does."""

    package = 'mmaction.models.localizers.drn'

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]],
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if fullname not in (self.package, f'{self.package}.drn'):
            return None
        return spec_from_loader(fullname, self, is_package=fullname == self.package)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ != self.package:
            from mmaction.registry import MODELS  # the importing module has loaded it

            module.DRN = MODELS.register_module(module=DRN)  # type: ignore[attr-defined]


def find_missing_drn() -> None:
    """Let ``import mmaction.models`` succeed without its DRN localizer.

    Symptom: ``ModuleNotFoundError: No module named 'mmaction.models.localizers.drn'``.
    Versions: mmaction2 1.2.0 from PyPI. Its source checkout has the directory, and
    since this finder comes last, a real module always wins.
    Delete when a release of mmaction2 contains ``models/localizers/drn``.
    """
    sys.meta_path.append(DRNFinder())


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
    except metadata.PackageNotFoundError:
        return
    if digit_version(found) < digit_version('4.56'):
        return
    try:
        import mmaction
        from mmaction.utils import dependency
    except ImportError:  # importing MMAction2 itself will report what is missing
        return
    if digit_version(mmaction.__version__) <= digit_version('1.2.0'):
        dependency.WITH_MULTIMODAL = False
