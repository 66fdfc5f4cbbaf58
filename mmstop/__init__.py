"""STOP and related methods for video understanding, as MMEngine modules.

Importing the package applies the compatibility patches (:mod:`mmstop.compat`) and
registers every module. It does nothing else.
"""

import warnings

from . import compat

compat.apply()

with warnings.catch_warnings(), compat.import_statistics_later():
    # mmcv-lite has no compiled operators, and mmstop needs none.
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformable')
    from . import (
        datasets,
        engine,
        evaluation,
        methods,
        models,
        towers,
        visualization,
    )
    from .version import __version__

__all__ = [
    '__version__',
    'compat',
    'datasets',
    'engine',
    'evaluation',
    'methods',
    'models',
    'towers',
    'visualization',
]
