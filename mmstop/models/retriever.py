"""Text-video retrieval with two CLIP towers."""

import hashlib
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmaction.structures import ActionDataSample
from mmengine.dist import all_gather, get_rank, get_world_size
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import at_least_float32

__all__ = ['CLIPRetriever', 'CaptionPreprocessor', 'contrastive_loss', 'video_ids']

Tokens = Union[Tensor, Sequence[Tensor]]

CHUNK = 256  # captions per batch when they are encoded for the cache


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
            inverse temperature of the loss.
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
        video = self._embed(inputs['imgs'])
        if mode == 'loss':
            text = self._recall(tokens)
            return {'loss_contrastive': self._loss(video, text, data_samples)}
        text = self.text(tokens)
        if mode == 'predict':
            return _write(video, text.split(counts), data_samples)
        return video, text

    def _embed(self, imgs: Tensor) -> Tensor:
        """(B, V, 3, T, H, W) -> (B, E)."""
        return self.backbone(imgs.flatten(0, 1)).unflatten(0, imgs.shape[:2]).mean(1)

    def _recall(self, tokens: Tensor) -> Tensor:
        """Look up the cached captions, encode the others: (B, L) -> (B, E)."""
        if not self._rows:
            return self.text(tokens)
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


# --- Loss ---------------------------------------------------------------------------


def contrastive_loss(
    video: Tensor, text: Tensor, scale: Tensor, video_ids: Tensor
) -> Tensor:
    """Compute the symmetric InfoNCE loss over the batches of all processes (Eq. 15).

    Every process gets the loss of the global batch. The gather sums the gradients that
    the processes send back, and data-parallel training averages the parameters'
    gradients. Together, this gives the gradients of the global batch.

    Args:
        video: (B, E), with the same B in every process.
        text: (B, E), the i-th text describes the i-th video.
        scale: inverse temperature, scalar.
        video_ids: (B,) int64. Entries with the same non-zero number are the same video
            and not negatives of each other.
    """
    with torch.autocast(video.device.type, enabled=False):
        video, text = _Gather.apply(_unit(video)), _Gather.apply(_unit(text))
        ids = torch.cat(all_gather(video_ids))
        logits = scale.to(text) * text @ video.T  # (texts, videos)
        same = (ids[:, None] == ids) & (ids != 0)
        logits = logits.masked_fill(same.fill_diagonal_(False), -torch.inf)
        target = torch.arange(len(logits), device=logits.device)
        t2v, v2t = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
        return (t2v + v2t) / 2


def _unit(x: Tensor) -> Tensor:
    """Normalise to unit norm, in at least float32."""
    return F.normalize(at_least_float32(x), dim=-1)


class _Gather(torch.autograd.Function):
    """Gather the rows of all processes; in backward, sum the gradients of each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.cat(all_gather(x.contiguous()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.contiguous()
        if get_world_size() > 1:
            torch.distributed.all_reduce(grad)
        return grad.chunk(get_world_size())[get_rank()]


def video_ids(samples: Optional[Sequence[Any]], B: int) -> Tensor:
    """Map video names to numbers equal in all processes: (B,) int64, 0 for no name."""
    names = [None] * B if samples is None else [s.get('video_id') for s in samples]
    return torch.tensor([0 if name is None else _number(name) for name in names])


def _number(name: Any) -> int:
    digest = hashlib.blake2b(str(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big', signed=True)


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
