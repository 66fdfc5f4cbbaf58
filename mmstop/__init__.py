"""STOP and its relatives for video understanding, as parts of MMEngine runners.

Importing the package mends the released third-party packages (:mod:`mmstop.compat`) and
registers every part; nothing else.
"""

from . import compat

compat.apply()

from . import engine, methods, models, towers, visualization  # noqa: E402

__version__ = '0.1.0'
__all__ = ['__version__', 'compat', 'engine', 'methods', 'models', 'towers', 'visualization']
