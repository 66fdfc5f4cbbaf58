"""Embed, classify and search videos with a trained model or with plain CLIP."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmstop.classes import write_sentences
from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.models import average_templates

from .batches import Batch, embed_batch, embed_texts
from .index import Hit, ModelID, VideoIndex
from .labels import Prediction, best_labels, find_labels, probabilities
from .model_loading import (
    build_model,
    clip_config,
    config_name,
    fill_in,
    find_device,
    fingerprint,
    reading_pipelines,
    test_pipeline,
    text_tower,
)
from .published import read_published
from .sources import Video, Videos, list_inputs
from .video_reading import OnError, VideoReader, decoder_of, read_batches, report, warn

__all__ = ['Batch', 'Prediction', 'VideoCLIP']


class VideoCLIP:
    """A model with a video and a text tower, for use on your own videos.

    ::

        clip = VideoCLIP.from_config('configs/stop_ssv2.py', 'best.pth')
        clip.classify('mine/*.mp4', labels=['opening a door', 'closing a door'])
        scores = clip.encode_video('mine/*.mp4') @ clip.encode_text(['a dog']).T

    A video is a path, or its frames: a NumPy array or a tensor (T, H, W, 3), uint8,
    RGB. A source of videos is a video, a folder, a pattern, or a list of these. Frames
    are sampled and cropped by the config's test pipeline, so the results match
    ``tools/test.py``.

    Args:
        cfg: config of a retriever, or of a recognizer with a ``CLIPTextHead``.
        checkpoint: path of the trained weights; None if nothing was trained.
        device: 'auto' for a GPU if there is one, or the name of a PyTorch device.
        decoder: 'pyav' or 'decord', as in ``CheckedDecordInit``; None for the one in
            the config, or else 'pyav', whose frames are exact.

    Raises:
        ValueError: the config is invalid, has no text tower or no pipeline that reads
            videos; the checkpoint does not fit, or is missing although parts of the
            model need training; or there is no such device.
        FileNotFoundError: there is no such checkpoint.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: Union[str, os.PathLike, None] = None,
        device: str = 'auto',
        decoder: Optional[str] = None,
    ) -> None:
        check_config(cfg, [])
        name = config_name(cfg)
        if checkpoint is not None:
            name += f' with {checkpoint}'
        fill = functools.partial(fill_in, checkpoint=checkpoint, cfg=cfg)
        self._build(cfg, fill, name, device, decoder)

    def _build(
        self,
        cfg: Config,
        fill: Callable[[nn.Module], None],
        name: str,
        device: str,
        decoder: Optional[str],
    ) -> None:
        """Build the model and let ``fill`` load what was trained into it."""
        self.cfg = cfg
        self.name = name
        self.pipelines = reading_pipelines(cfg, decoder)
        self.decoder = decoder_of(test_pipeline(cfg), decoder)
        self.device = find_device(device)
        self.model: Any = build_model(cfg)
        self.text = text_tower(self.model)
        fill(self.model)
        self.model.to(self.device).eval()

    @classmethod
    def from_config(
        cls,
        config: Union[str, os.PathLike],
        checkpoint: Union[str, os.PathLike, None] = None,
        device: str = 'auto',
        decoder: Optional[str] = None,
        options: Optional[dict] = None,
    ) -> 'VideoCLIP':
        """Build the model of a config file.

        Args:
            options: overrides of the config, such as {'model.backbone.alpha': 0.5}.
            config, checkpoint, device, decoder: as in the class.
        """
        cfg = load_config(os.fspath(config), options)
        cfg.load_from = None
        return cls(cfg, checkpoint, device, decoder)

    @classmethod
    def from_clip(
        cls,
        arch: str = 'ViT-B-32-quickgelu',
        weights: Optional[str] = 'openai',
        num_frames: int = 12,
        device: str = 'auto',
        decoder: Optional[str] = None,
    ) -> 'VideoCLIP':
        """Use plain CLIP: a video's embedding is the mean over some of its frames.

        Args:
            arch, weights: as in ``CLIPViT``.
            num_frames: number of frames, spread evenly over each video.
            device, decoder: as in the class.
        """
        clip = cls.__new__(cls)  # its config needs no check
        cfg = clip_config(arch, weights, num_frames)
        fill = functools.partial(fill_in, checkpoint=None, cfg=cfg)
        name = f'{arch} with weights {weights}, {num_frames} frames per video'
        clip._build(cfg, fill, name, device, decoder)
        return clip

    @classmethod
    def from_pretrained(
        cls,
        name: Union[str, os.PathLike],
        device: str = 'auto',
        decoder: Optional[str] = None,
        weights: Optional[str] = None,
        revision: Optional[str] = None,
    ) -> 'VideoCLIP':
        """Read a model that ``mmstop publish`` wrote; no code of it is run.

        Args:
            name: a folder, or a name on the Hugging Face hub.
            weights: file of the CLIP below, where it cannot be downloaded.
            revision: branch, tag or commit on the hub; a commit never changes.
            device, decoder: as in the class.

        Raises:
            MissingFileError: the folder lacks a file.
            ConfigError: there is no such model; the folder is damaged, names code,
                files or URLs, or belongs to another CLIP or version of mmstop.
        """
        found = read_published(name, weights, revision)
        clip = cls.__new__(cls)  # its config is checked
        clip._build(found.cfg, found.fill, found.name, device, decoder)
        return clip

    @functools.cached_property
    def identity(self) -> ModelID:
        """The identity of this model and its input pipeline, whatever the device."""
        return ModelID(self.name, fingerprint(self.cfg, self.model, self.decoder))

    def encode_video(
        self,
        videos: Videos,
        batch_size: int = 8,
        num_workers: int = 1,
        progress: bool = False,
        on_error: OnError = warn,
    ) -> np.ndarray:
        """Embed videos: (n, E), float32, of unit norm.

        The rows of a pattern or a folder are in the order of :func:`list_videos`. A
        video that cannot be read gives a row of NaN.

        Args:
            videos: sources, as described in the class.
            batch_size: videos per batch.
            num_workers: reader processes; 0 counts as 1.
            progress: show a progress bar on stderr, if that is a terminal.
            on_error: called for each video that cannot be read; warns by default.

        Raises:
            FileNotFoundError: a source has no file.
            ValueError: an array has another shape or dtype.
        """
        listed = list_inputs(videos)
        rows = np.full((len(listed), self.text.out_dim), np.nan, np.float32)
        for batch in self.stream(listed, batch_size, num_workers, progress):
            rows[batch.indices] = batch.embeddings
            report(listed, batch.errors, on_error)
        return rows

    def encode_text(self, texts: Union[str, Sequence[str]]) -> np.ndarray:
        """Embed texts: (n, E), float32, of unit norm.

        Retrieval configs truncate long texts as they do in testing.

        Raises:
            ValueError: a text is too long for the text tower, and the config does not
                truncate texts.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        return embed_texts(self.model, self.text, texts, self.pipelines[0])

    def classify(
        self,
        videos: Videos,
        labels: Union[Sequence[str], str, None] = None,
        topk: int = 5,
        template: Union[str, Sequence[str], None] = None,
        batch_size: int = 8,
        num_workers: int = 1,
        progress: bool = False,
        on_error: OnError = warn,
    ) -> list[list[Prediction]]:
        """Classify videos: the ``topk`` most likely labels of each, best first.

        A video that cannot be read gives an empty list.

        Args:
            labels: any words; or, as in ``CLIPTextHead``, the name of a list that ships
                with the package or the path of a file; None for the classes of the
                config.
            template: sentence with ``{}`` in place of the label, several, or the name
                of an ensemble, as in ``CLIPTextHead``; None for that of the config, or
                else the default of ``CLIPTextHead``.
            videos, batch_size, num_workers, progress, on_error: as in
                :meth:`encode_video`.

        Raises:
            ValueError: there are no labels or duplicates, the template does not have
                exactly one ``{}``, or ``topk`` is less than 1.
            FileNotFoundError: a source has no file, or there is no such list of labels.
        """
        if topk < 1:
            raise ValueError(f'topk={topk}, expected at least 1')
        listed = list_inputs(videos)
        head = getattr(self.model, 'cls_head', None)
        names, templates = find_labels(labels, template, head, self.name)
        sentences = self.encode_text(write_sentences(templates, names))
        text = average_templates(torch.from_numpy(sentences), len(templates))
        found: list[list[Prediction]] = [[] for _ in listed]
        for batch in self.stream(listed, batch_size, num_workers, progress):
            scores = probabilities(batch.clips, text, self.text.logit_scale)
            for i, best in zip(batch.indices, best_labels(scores, names, topk)):
                found[i] = best
            report(listed, batch.errors, on_error)
        return found

    def search(
        self,
        query: str,
        index: Union[VideoIndex, str, os.PathLike],
        topk: int = 5,
        exact: bool = False,
    ) -> list[Hit]:
        """Find the videos of an index that match a text best, best first.

        Args:
            query: any text.
            index: an index written by :func:`update_index` or ``mmstop embed``.
            topk: maximum number of hits.
            exact: compare with every video, even if a faster search is prepared.

        Raises:
            FileNotFoundError: there is no such index.
            ValueError: another model made the index, or ``topk`` is less than 1.
        """
        if topk < 1:
            raise ValueError(f'topk={topk}, expected at least 1')
        if not isinstance(index, VideoIndex):
            with VideoIndex(index) as opened:
                return self.search(query, opened, topk, exact)
        index.check(self.identity)
        return index.search(self.encode_text(query), topk, exact)[0]

    def stream(
        self,
        videos: Sequence[Video],
        batch_size: int = 8,
        num_workers: int = 1,
        progress: bool = False,
    ) -> Iterator[Batch]:
        """Embed files and arrays in batches, without expanding sources or warning."""
        reader = VideoReader(*self.pipelines, videos)
        for items in read_batches(reader, batch_size, num_workers, progress):
            yield embed_batch(self.model, items, self.text.out_dim)
