"""What to do with a trained model, without a data set."""

from .export import export_towers

__all__ = ['export_towers']
