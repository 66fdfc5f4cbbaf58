"""What stands between a tower and the heads of frameworks for images."""

from torch import Tensor, nn

from mmstop.registry import MODELS

__all__ = ['AsTuple']


@MODELS.register_module()
class AsTuple(nn.Module):
    """Hand a tower's embedding to heads that take the last of a backbone's stages.

    (B, E) -> ((B, E),). MMPretrain's ``ImageClassifier`` takes it as ``neck``.
    """

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)
