"""STOP and its relatives for video understanding, as parts of MMEngine runners.

Importing the package mends the released third-party packages (:mod:`mmstop.compat`) and
registers every part; nothing else.
"""

import warnings

from . import compat

compat.apply()

with warnings.catch_warnings():
    # mmcv-lite has no compiled operators; none of ours needs one.
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

__version__ = '0.1.0'
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
