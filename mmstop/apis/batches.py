"""What a model makes of a batch of videos or texts, for ``VideoCLIP``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor

from mmstop.datasets import CaptionTokenize
from mmstop.towers import shared_prompts

__all__ = ['Batch', 'embed_batch', 'embed_texts']

TEXTS = 256  # texts at a time


class Batch(NamedTuple):
    """The results for some videos, by their indices in the input list."""

    indices: list[int]  # of the b videos that could be read
    clips: Tensor  # (b, V, E), float32, on the CPU: the embedding of each clip or crop
    errors: dict[int, str]  # why the other videos could not be read

    @property
    def embeddings(self) -> np.ndarray:
        """Mean over clips, of unit norm: (b, E), float32."""
        return F.normalize(self.clips.mean(1), dim=-1).numpy()


@torch.no_grad()
def embed_batch(model: Any, items: Sequence[tuple], width: int) -> Batch:
    """Embed the videos of a batch that could be read.

    Args:
        items: for each video its number, the pipeline's output, and the error or None.
        width: E of the embeddings.
    """
    read = [(i, item) for i, item, error in items if error is None]
    errors = {i: error for i, _, error in items if error is not None}
    if not read:
        return Batch([], torch.empty(0, 1, width), errors)
    data = pseudo_collate([item for _, item in read])
    inputs = model.data_preprocessor(data)['inputs']
    imgs = inputs['imgs'] if isinstance(inputs, dict) else inputs
    clips = model.backbone(imgs.flatten(0, 1)).float().cpu()
    return Batch([i for i, _ in read], clips.unflatten(0, imgs.shape[:2]), errors)


@torch.no_grad()
def embed_texts(
    model: Any, tower: Any, texts: list[str], pipeline: Compose
) -> np.ndarray:
    """Embed texts: (n, E), float32, of unit norm, on the CPU.

    Args:
        tower: the model's text tower.
        pipeline: transforms, of which a ``CaptionTokenize`` tokenizes; without one the
            tower does.

    Raises:
        ValueError: a text is too long, and the pipeline does not truncate it.
    """
    device = next(tower.parameters()).device
    steps = [s for s in pipeline.transforms if isinstance(s, CaptionTokenize)]
    rows = [np.empty((0, tower.out_dim), np.float32)]
    for start in range(0, len(texts), TEXTS):
        some = texts[start : start + TEXTS]
        tokens = steps[0]({'text': some})['text'] if steps else tower.tokenize(some)
        text = tower(tokens.to(device), *shared_prompts(model.backbone))
        rows.append(F.normalize(text, dim=-1).cpu().numpy())
    return np.concatenate(rows)
