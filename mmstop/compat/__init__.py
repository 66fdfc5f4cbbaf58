"""Compatibility patches for released versions of the packages that mmstop depends on.

Each patch is one function. It documents the symptom, the affected versions and when it
can be deleted. ``tests/test_compat.py`` reproduces every symptom without its patch, so
a test fails as soon as a patch is no longer needed. :func:`apply` runs all patches
once, before anything else in ``mmstop`` is imported, except for
:func:`import_statistics_later`, a context for these imports. It imports torch, MMEngine
and, if an incompatible transformers is installed, ``mmaction.utils``, but never
``mmaction.models``.

``pkg_resources``, which MMEngine imports and setuptools 82 removed, is not patched
here. A config's ``_base_`` is resolved before any code of mmstop can run, so the
package requires ``setuptools<82`` instead.
"""

import functools

from . import (
    checkpoints,
    distributed,
    mmaction2,
    numpy2,
    schedules,  # noqa: F401  marks its patch
    wrapping,
)
from .mmaction2 import import_statistics_later
from .reader import CheckpointError, read_structure

__all__ = [
    'CheckpointError',
    'apply',
    'distributed',
    'import_statistics_later',
    'read_structure',
]


@functools.cache
def apply() -> None:
    """Apply all patches; a second call does nothing."""
    mmaction2.find_missing_drn()
    mmaction2.skip_vindlu()
    checkpoints.read_as_data()
    wrapping.apply()
    numpy2.apply()
