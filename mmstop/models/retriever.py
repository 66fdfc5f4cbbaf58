"""Text-video retrieval with two CLIP towers."""

import math
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmaction.structures import ActionDataSample
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmstop.errors import ConfigError, typed
from mmstop.methods import PromptedCLIPText
from mmstop.registry import MODELS
from mmstop.towers import Tower, shared_prompts

from .losses import contrastive_loss, video_ids

__all__ = ['CLIPRetriever', 'CaptionPreprocessor']

Tokens = Union[Tensor, Sequence[Tensor]]

CHUNK = 256  # captions per batch when they are encoded for the cache
MAX_SCALE = 100  # of the cosines in the loss, as in CLIP's own training


@MODELS.register_module()
class CLIPRetriever(BaseModel):
    """Embed videos and captions in a joint space (STOP, Eq. 13 and 15).

    In every mode, the inputs are a dict with ``imgs`` and ``text``. ``imgs`` is
    (B, V, 3, T, H, W) for V clips or crops per video, whose embeddings are averaged.
    ``text`` holds token ids: (B, L) for one caption per video, (B, k, L) for k, or B
    tensors (k_i, L). The loss uses the cache of :meth:`keep_captions` where it can.

    Args:
        backbone: config of the video tower, any method.
        text: config of the text tower. Its ``logit_scale`` is the logarithm of the
            inverse temperature of the loss. If it learns, it is kept at ln 100 or less.
        data_preprocessor: config, usually of MMAction2's ``MultiModalDataPreprocessor``
            with ``ActionDataPreprocessor`` for ``imgs`` and ``CaptionPreprocessor`` for
            ``text``.

    Raises:
        ValueError: the towers' embeddings differ in width, a training video does not
            have exactly one caption, or the mode is unknown.
    """

    @typed
    def __init__(self, backbone: dict, text: dict, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone = MODELS.build(backbone)
        self.text = MODELS.build(text)
        if self.backbone.out_dim != self.text.out_dim:
            raise ConfigError(
                f'the video tower embeds in {self.backbone.out_dim} dimensions, the '
                f'text tower in {self.text.out_dim}; give both the same architecture'
            )
        refuse_unread_prompts(self.backbone, self.text)
        self._rows: dict[bytes, int] = {}  # a cached caption's row in the features
        self._features = torch.empty(0, self.text.out_dim)

    def keep_captions(self, tokens: Tensor) -> None:
        """Encode captions, (n, L) token ids, and cache their features for the loss.

        The features are float32, even under autocast. They are plain attributes,
        neither saved nor broadcast. They replace the previous cache, and loading a
        state dict clears them. The same captions in the same order give bit-identical
        features.

        Raises:
            ConfigError: the text tower has trainable parameters.
        """
        learning = [name for name, p in self.text.named_parameters() if p.requires_grad]
        if shared_prompts(self.backbone):
            learning.append('text_prompts() of the video tower')
        if learning:
            raise ConfigError(
                f'the text tower learns ({len(learning)} trainable parameters, such as '
                f'{learning[0]!r}), so its features cannot be cached; freeze it, or '
                f'leave CaptionCacheHook out of custom_hooks'
            )
        device = self.text.logit_scale.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            # A step reads only a few rows, so they can stay in CPU memory.
            parts = [self.text(part.to(device)).cpu() for part in tokens.split(CHUNK)]
        self._features = torch.cat(parts)
        self._rows = {key: row for row, key in enumerate(_keys(tokens))}

    def _load_from_state_dict(self, *args: Any) -> None:
        self._rows = {}
        super()._load_from_state_dict(*args)

    def forward(
        self,
        inputs: dict,
        data_samples: Optional[Sequence[Any]] = None,
        mode: str = 'tensor',
    ) -> Any:
        """Embed a batch, compute its loss or write its features.

        Args:
            data_samples: B samples. Mode 'loss' reads their ``video_id``, mode
                'predict' writes to them.
            mode: 'tensor', 'loss' or 'predict'.
        Returns:
            'tensor': the embeddings of videos (B, E) and of captions (captions, E), not
            normalised. 'loss': a dict with the scalar ``loss_contrastive``. 'predict':
            the samples with ``features``, float32 of unit norm: ``video_feature`` (E,)
            and ``text_feature``, (E,) for one caption, (k, E) for k.
        """
        if mode not in ('tensor', 'loss', 'predict'):
            raise ValueError(f"mode={mode!r}, expected 'tensor', 'loss' or 'predict'")
        tokens, counts = _flatten(inputs['text'])
        scale = self.text.logit_scale
        if mode == 'loss' and scale.requires_grad:
            with torch.no_grad():
                scale.clamp_(max=math.log(MAX_SCALE))
        if mode == 'loss':
            # First, while the device has nothing to do: the host waits for the ids.
            text = self._recall(tokens)
            video = self._embed(inputs['imgs'])
            return {'loss_contrastive': self._loss(video, text, data_samples)}
        video, text = self._embed(inputs['imgs']), self.embed_text(tokens)
        if mode == 'predict':
            return _write(video, text.split(counts), data_samples)
        return video, text

    def _embed(self, imgs: Tensor) -> Tensor:
        """(B, V, 3, T, H, W) -> (B, E)."""
        return self.backbone(imgs.flatten(0, 1)).unflatten(0, imgs.shape[:2]).mean(1)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Embed texts with what the video tower has for them: (n, L) -> (n, E)."""
        return self.text(tokens, *shared_prompts(self.backbone))

    def _recall(self, tokens: Tensor) -> Tensor:
        """Look up the cached captions, encode the others: (B, L) -> (B, E)."""
        if not self._rows:
            return self.embed_text(tokens)
        rows = [self._rows.get(key, -1) for key in _keys(tokens)]
        features = self._features[rows].to(tokens.device)
        new = [i for i, row in enumerate(rows) if row < 0]
        if new:
            features[new] = self.text(tokens[new]).to(features)
        return features

    def _loss(
        self, video: Tensor, text: Tensor, samples: Optional[Sequence[Any]]
    ) -> Tensor:
        if len(text) != len(video):
            raise ValueError(
                f'got {len(text)} captions for {len(video)} videos, training takes one '
                f'per video; set test_mode=False in the dataset of train_dataloader'
            )
        ids = video_ids(samples, len(video)).to(video.device)
        return contrastive_loss(video, text, self.text.logit_scale.exp(), ids)


def refuse_unread_prompts(backbone: Tower, text: Tower) -> None:
    """Refuse a text tower that cannot take the prompts that the video tower makes."""
    if shared_prompts(backbone) and not isinstance(text, PromptedCLIPText):
        raise ConfigError(
            f'{type(backbone).__name__} makes prompts for the text tower, and '
            f'{type(text).__name__} takes none; set text=dict('
            f"type='PromptedCLIPText', num_prompts=0, clip=...)"
        )


def _flatten(text: Tokens) -> tuple[Tensor, list[int]]:
    """Concatenate all captions, (captions, L), and count those of each video."""
    captions = [ids.reshape(-1, ids.shape[-1]) for ids in text]
    return torch.cat(captions), [len(ids) for ids in captions]


def _keys(tokens: Tensor) -> list[bytes]:
    """Return a lookup key for each caption of (n, L): the bytes of its token ids."""
    return [ids.tobytes() for ids in tokens.cpu().numpy()]


def _write(
    video: Tensor, texts: Sequence[Tensor], samples: Optional[Sequence[Any]]
) -> Sequence[Any]:
    """Write the features of each video and its captions to a sample."""
    samples = [ActionDataSample() for _ in video] if samples is None else samples
    for sample, v, t in zip(samples, video, texts):
        sample.features = RetrievalFeatures(
            video_feature=F.normalize(v.float(), dim=-1),
            text_feature=F.normalize((t[0] if len(t) == 1 else t).float(), dim=-1),
        )
    return samples


class RetrievalFeatures(InstanceData):
    """``video_feature`` (E,) and ``text_feature`` (E,) or (k, E).

    ``ActionDataSample.features`` accepts only ``InstanceData``, which in turn accepts
    only values of equal length, so that check is removed here.
    """

    __setattr__ = BaseDataElement.__setattr__


# --- Data preprocessor --------------------------------------------------------------


@MODELS.register_module()
class CaptionPreprocessor(BaseDataPreprocessor):
    """Batch token ids, for the ``text`` of MMAction2's ``MultiModalDataPreprocessor``.

    B tensors (L,) become (B, L). In testing, tensors (k_i, L) stay a list, since videos
    differ in their number of captions.
    """

    def preprocess(
        self, inputs: Sequence[Tensor], data_samples: Any, training: bool = False
    ) -> tuple[Tokens, Any]:
        """Batch the output of ``CaptionTokenize``."""
        if inputs[0].dim() == 1:
            return torch.stack(list(inputs)), data_samples
        return inputs, data_samples
