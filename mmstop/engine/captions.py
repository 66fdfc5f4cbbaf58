"""A hook that encodes the captions of the training data once."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmstop.datasets import CaptionTokenize
from mmstop.errors import ConfigError, typed
from mmstop.models import CLIPRetriever
from mmstop.registry import HOOKS

from .hooks import find_parts, unwrap

__all__ = ['CaptionCacheHook']


@HOOKS.register_module()
class CaptionCacheHook(Hook):
    """Encode each distinct caption of the training data once, before training.

    ``CLIPRetriever`` then looks up their features instead of running the frozen text
    tower in every step. Captions that a random transform such as ``MirrorCaption``
    changes are encoded in their batch, as all captions are without this hook::

        default_hooks = dict(captions=dict(type='CaptionCacheHook'))

    The features depend only on the order of the data set, not on the batches, so a
    resumed run has the same features as an uninterrupted one.

    Args:
        max_mb: maximum size of the features and token ids in the main memory of each
            process, in MB of 1e6 bytes. Exceeding it is an error, raised before
            training: encoding the remainder in every step would defeat the purpose.

    Raises:
        ConfigError: before training, if the model is not a ``CLIPRetriever``, its text
            tower is trainable, a data set has no ``CaptionTokenize`` in its pipeline,
            or ``max_mb`` is too small.
    """

    @typed
    def __init__(self, max_mb: float = 1024) -> None:
        self.max_mb = max_mb

    def before_train(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if not isinstance(model, CLIPRetriever):
            raise ConfigError(
                f'CaptionCacheHook is for CLIPRetriever, the model is a '
                f'{type(model).__name__}; leave the hook out'
            )
        tokens = _distinct_captions(runner.train_dataloader.dataset)
        n, L = tokens.shape
        size = (n * model.text.out_dim * 4 + n * L * tokens.element_size()) / 1e6
        if size > self.max_mb:
            raise ConfigError(
                f'CaptionCacheHook: features of {n:,} captions take {size:,.3f} MB, '
                f'max_mb={self.max_mb} allows less; raise max_mb, or leave the '
                f'hook out'
            )
        model.keep_captions(tokens)
        runner.logger.info(f'{n:,} captions encoded once, {size:,.3f} MB')


def _distinct_captions(dataset: Any) -> Tensor:
    """Tokenise the captions of a data set, (n, L), in the order of their first use."""
    parts = find_parts(dataset)
    tokenizers = [_tokenizer(part) for part in parts]
    texts: dict[str, None] = {}
    for part in parts:
        for i in range(len(part)):
            text = part.get_data_info(i)['text']
            texts.update(dict.fromkeys([text] if isinstance(text, str) else text))
    return tokenizers[0]({'text': list(texts)})['text']


def _tokenizer(dataset: Any) -> CaptionTokenize:
    pipeline = getattr(dataset, 'pipeline', None)
    for step in getattr(pipeline, 'transforms', []):
        if isinstance(step, CaptionTokenize):
            return step
    raise ConfigError(
        f'CaptionCacheHook: {type(dataset).__name__} has no CaptionTokenize in its '
        f'pipeline, so that its captions are not known before training; add it, or '
        f'leave the hook out'
    )
