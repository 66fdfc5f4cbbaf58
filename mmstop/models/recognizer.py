"""MMAction2's recognizer for methods whose video tower also prompts the text tower."""

from typing import Any

from mmaction.models import Recognizer3D
from torch import Tensor

from mmstop.registry import MODELS
from mmstop.towers import shared_prompts

__all__ = ['CLIPRecognizer']


@MODELS.register_module()
class CLIPRecognizer(Recognizer3D):
    """Hand the prompts that the video tower makes to a :class:`CLIPTextHead`.

    The arguments are those of MMAction2's ``Recognizer3D``, and so is everything else.
    """

    def extract_feat(self, inputs: Tensor, *args: Any, **kwargs: Any) -> tuple:
        """Extract features and the arguments for the head's ``loss`` and ``predict``.

        (B, V, 3, T, H, W) -> (B V, E) and a dict, with ``text_prompts``, (depth, P, D),
        if there are any.
        """
        features, options = super().extract_feat(inputs, *args, **kwargs)
        for prompts in shared_prompts(self.backbone):
            options = dict(options, text_prompts=prompts)
        return features, options
