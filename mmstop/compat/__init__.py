"""Mends for what is broken in released versions of the packages below us.

One function per mend. Each says the symptom, the versions that show it and when it can
be deleted; ``tests/test_compat.py`` shows every symptom without the mend, so a test
fails on the day a mend is no longer needed. :func:`apply` runs them all, once, before
anything else in ``mmstop`` is imported. It imports torch, MMEngine and, only beside a
breaking transformers, ``mmaction.utils``; never ``mmaction.models``.

``pkg_resources``, which MMEngine imports and setuptools 82 removed, is not mended here:
a config's ``_base_`` is resolved before any code of ours can run, so the requirement
``setuptools<82`` is the remedy.
"""

import functools

from . import checkpoints, distributed, mmaction2, numpy2
from .reader import CheckpointError, read_structure

__all__ = ['CheckpointError', 'apply', 'read_structure']


@functools.cache
def apply() -> None:
    """Apply every mend; a second call does nothing."""
    mmaction2.find_missing_drn()
    mmaction2.skip_vindlu()
    checkpoints.read_as_data()
    checkpoints.run_no_stored_config()
    checkpoints.find_beside_pointer()
    checkpoints.keep_to_own_folder()
    checkpoints.save_default_statistics()
    distributed.launch_on_cpu()
    distributed.wrap_on_cpu()
    distributed.write_metrics_once()
    numpy2.apply()
