"""An adapter between a tower and the heads of image frameworks."""

from torch import Tensor, nn

from mmstop.registry import MODELS

__all__ = ['AsTuple']


@MODELS.register_module()
class AsTuple(nn.Module):
    """Wrap a tower's embedding in a tuple, for heads that expect a tuple of stages.

    (B, E) -> ((B, E),). Use it as the ``neck`` of MMPretrain's ``ImageClassifier``.
    """

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)
