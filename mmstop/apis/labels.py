"""Choose the labels of a classification, and score them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from mmstop.classes import TEMPLATE, list_templates, load_classes

__all__ = ['Prediction', 'best_labels', 'find_labels', 'probabilities']


class Prediction(NamedTuple):
    """A label and its probability among all labels, in [0, 1]."""

    label: str
    score: float


def find_labels(
    labels: Union[Sequence[str], str, None],
    template: Union[str, Sequence[str], None],
    head: Any,
    model: str,
) -> tuple[list[str], list[str]]:
    """Return the labels and the templates to classify with.

    Args:
        labels, template: as in ``VideoCLIP.classify``.
        head: the model's ``CLIPTextHead``, or None.
        model: the model's name.

    Raises:
        ValueError: there are no labels, or one is empty or a duplicate.
    """
    if labels is None and head is None:
        raise ValueError(f'{model} has no classes of its own; give labels')
    if labels is None:
        names = head.classes
    else:
        names = load_classes(labels) if isinstance(labels, str) else list(labels)
    if not names:
        raise ValueError('labels is empty; give at least one')
    for name, times in Counter(names).items():
        if times > 1 or not name.strip():
            raise ValueError(
                f'labels has {name!r}, which is empty or a duplicate; the '
                f'probabilities of all labels would be too small'
            )
    if template is None:
        template = TEMPLATE if head is None else head.template
    return names, list_templates(template)


@torch.no_grad()
def probabilities(clips: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Compare clips (b, V, E) with sentences (K, E): probabilities (b, K).

    They are averaged over the V clips, as with ``average_clips='prob'``.

    Args:
        text: unit-norm embeddings of the sentences, on the CPU like the clips.
        logit_scale: log of CLIP's temperature scale, on any device.
    """
    cosines = F.normalize(clips, dim=-1) @ text.T
    return (logit_scale.exp().cpu() * cosines).softmax(-1).mean(1)


def best_labels(
    scores: Tensor, labels: Sequence[str], topk: int
) -> list[list[Prediction]]:
    """Name the ``topk`` best of some labels: scores (b, K) -> b lists, best first."""
    best = scores.topk(min(topk, len(labels)))
    return [
        [Prediction(labels[k], score) for k, score in zip(*row)]
        for row in zip(best.indices.tolist(), best.values.tolist())
    ]
