"""Classification by similarity to one sentence per class."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmaction.models.heads import BaseHead
from torch import Tensor

from mmstop.classes import TEMPLATE, list_templates, load_classes, write_sentences
from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS
from mmstop.towers import at_least_float32

__all__ = ['CLIPTextHead', 'average_templates']


def average_templates(sentences: Tensor, num_templates: int) -> Tensor:
    """Average the features of each class over the templates, as CLIP's authors do.

    (M x K, E) of unit norm, all classes of the first template first -> (K, E) of unit
    norm. A single template's features stay as they are.
    """
    if num_templates == 1:
        return sentences
    return F.normalize(sentences.unflatten(0, (num_templates, -1)).mean(0), dim=-1)


@MODELS.register_module()
class CLIPTextHead(BaseHead):
    """Score videos by cosine similarity to a sentence per class (STOP, Eq. 14).

    (B, E) -> (B, K): the cosine times ``exp(logit_scale)``, CLIP's learned inverse
    temperature. While the text tower is frozen, its sentences are encoded only once and
    cached in a plain attribute, which is neither saved nor broadcast.

    Args:
        text: config of the text tower.
        classes: class names in label order; or the name of a list that ships with the
            package ('ucf101', 'hmdb51', 'ssv2', ...); or the path of a file with one
            name per line, or with ids and names (CSV, JSON) in any order.
        template: sentence with ``{}`` in place of the class name; or several, or the
            name of an ensemble ('clip' or 'video', see
            :data:`mmstop.classes.ENSEMBLES`), whose features are averaged.
        **kwargs: arguments of MMAction2's ``BaseHead``: ``loss_cls``, ``topk``,
            ``label_smooth_eps``, ``average_clips``, ``multi_class``, ``init_cfg``.

    Raises:
        ValueError: a template does not have exactly one ``{}``, the list of classes
            is invalid, a sentence is too long for the text tower, or ``topk`` is less
            than 1.
    """

    @typed
    def __init__(
        self,
        text: dict,
        classes: Union[Sequence[str], str],
        template: Union[str, Sequence[str]] = TEMPLATE,
        **kwargs: Any,
    ) -> None:
        names = load_classes(classes)
        sentences = write_sentences(template, names)
        topk = kwargs.get('topk', 1)
        ranks = topk if isinstance(topk, (tuple, list)) else [topk]
        if not all(isinstance(k, int) and k >= 1 for k in ranks):
            raise ConfigError(f'topk={topk!r}, expected integers of at least 1')
        tower = MODELS.build(text)
        kwargs.setdefault('loss_cls', dict(type='mmaction.CrossEntropyLoss'))
        super().__init__(num_classes=len(names), in_channels=tower.out_dim, **kwargs)
        self.text = tower
        self.classes, self.template = names, template
        self.num_templates = len(list_templates(template))
        self.sentences = sentences
        self._tokens = tower.tokenize(self.sentences)  # (M x K, L)
        self._cache: Optional[Tensor] = None
        self._prompts: Optional[Tensor] = None  # those that the cache was made with
        for module in tower.modules():  # any of them may be loaded separately
            module.register_load_state_dict_pre_hook(self._forget)

    def forward(
        self, x: Tensor, text_prompts: Optional[Tensor] = None, **kwargs: Any
    ) -> Tensor:
        """Score features against the sentences: (B, E) -> (B, K), at least float32.

        Args:
            text_prompts: what the video tower has for the text tower, (depth, P, D).
        """
        sentences = self._sentence_features(x.device, text_prompts)
        scale = self.text.logit_scale
        # Scores go up to 100, where half precision has steps of 0.06 or 0.5.
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(at_least_float32(x), dim=-1)
            return scale.exp() * x @ sentences.T

    def train(self, mode: bool = True) -> 'CLIPTextHead':
        if mode and self._learns():
            self._cache = None
        return super().train(mode)

    def _forget(self, *args: Any) -> None:
        self._cache = None

    def _learns(self) -> bool:
        return any(p.requires_grad for p in self.text.parameters())

    def _sentence_features(
        self, device: torch.device, prompts: Optional[Tensor]
    ) -> Tensor:
        """Return the sentences' unit-norm features, (K, E)."""
        if self.training and (self._learns() or prompts is not None):
            return self._encode(device, prompts)
        if prompts is not None and not (
            self._prompts is not None and torch.equal(self._prompts, prompts)
        ):
            self._cache = None
        if self._cache is None or self._cache.device != device:
            # The cache is computed in full precision, and not as an inference tensor,
            # so that training can use it even if a test filled it.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(device.type, enabled=False),
            ):
                self._cache = self._encode(device, prompts)
                self._prompts = None if prompts is None else prompts.clone()
        return self._cache

    def _encode(self, device: torch.device, prompts: Optional[Tensor]) -> Tensor:
        given = () if prompts is None else (prompts,)
        # One template at a time takes as much memory as a single one.
        parts = [
            F.normalize(at_least_float32(self.text(tokens, *given)), dim=-1)
            for tokens in self._tokens.to(device).chunk(self.num_templates)
        ]
        return average_templates(torch.cat(parts), self.num_templates)
