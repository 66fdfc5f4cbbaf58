"""What STOP attended to and prompted in a video: the paper's figures 3, 5, 6 and 7."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmstop.errors import ConfigError
from mmstop.methods import STOPCLIPViT

from .attention import cls_attention_map, innermost
from .drawing import heat_map, outline_patches

__all__ = [
    'Strip',
    'TracedVideo',
    'VideoTrace',
    'predict',
    'stop_tower',
    'strips_of',
    'trace_blocks',
    'trace_dataset',
    'trace_prediction',
    'trace_video',
]


@dataclass
class VideoTrace:
    """What a STOP model saw in one video of T frames, and chose for one block.

    Attributes:
        frames: as the model saw them, (T, H, W, 3), uint8, RGB.
        region: r of Eq. 6, the prompted patches, (T, rows, columns), bool.
        saliency: W^s of Eq. 5, (T, rows, columns).
        clip_attention: attention of the last CLS of the frozen CLIP inside, (T, rows,
            columns), as :func:`cls_attention_map` scales it.
        attention: the same for STOP.
        variation: W^t of Eq. 10, (T - 1,), in [0, 1].
        num_prompts: N^t of Eq. 11, (T - 1,), int64.
        block: the block at whose input region, saliency, variation and prompts were
            chosen.
    """

    frames: np.ndarray
    region: np.ndarray
    saliency: np.ndarray
    clip_attention: np.ndarray
    attention: np.ndarray
    variation: np.ndarray
    num_prompts: np.ndarray
    block: int = 0


def trace_video(model: nn.Module, item: dict, block: int = 0) -> VideoTrace:
    """Run a model on the first clip of a video and return what it saw and chose.

    Args:
        model: a recognizer or retriever in evaluation mode.
        item: the test pipeline's output: ``data_samples`` and ``inputs``, (clips, 3,
            T, H, W), uint8; for retrieval, a dict that has these as ``imgs``.
        block: the block at whose input prompts were chosen, from 0.

    Raises:
        ValueError: the backbone is not STOP, its tower merges patches, or it makes no
            prompts for that block.
    """
    return trace_blocks(model, item, [block])[0]


@torch.no_grad()
def trace_blocks(
    model: nn.Module, item: dict, blocks: Sequence[int]
) -> list[VideoTrace]:
    """Do the same as :func:`trace_video` for several blocks in one run."""
    tower = stop_tower(model)
    if missing := {*blocks} - {*range(tower.prompted_blocks)}:
        raise ConfigError(
            f'block {min(missing)} has no prompts of its own; this model makes them '
            f'for blocks 0 to {tower.prompted_blocks - 1}'
        )
    preprocess: Any = model.data_preprocessor
    video = _imgs(preprocess(pseudo_collate([item]), False)['inputs'])[:, 0]
    traces = tower.traces(video)

    def on_grid(patches: Tensor) -> np.ndarray:
        return patches[0].reshape(-1, *tower.grid).cpu().numpy()

    frames = _imgs(item['inputs'])[0].movedim(0, -1).cpu().numpy().astype(np.uint8)
    clip_attention = on_grid(cls_attention_map(innermost(tower), video))
    attention = on_grid(cls_attention_map(tower, video))
    return [
        VideoTrace(
            frames=frames,
            region=on_grid(traces[block].region),
            saliency=on_grid(traces[block].saliency),
            clip_attention=clip_attention,
            attention=attention,
            variation=traces[block].variation[0].cpu().numpy(),
            num_prompts=traces[block].num_prompts[0].cpu().numpy(),
            block=block,
        )
        for block in blocks
    ]


def stop_tower(model: nn.Module) -> STOPCLIPViT:
    """Return the backbone of a model, if it is STOP.

    Raises:
        ConfigError: it is not.
    """
    tower = getattr(model, 'backbone', None)
    if not isinstance(tower, STOPCLIPViT):
        raise ConfigError(
            f'the backbone of this {type(model).__name__} is a {type(tower).__name__}, '
            f'which chooses no prompts to draw; take a model with STOPCLIPViT'
        )
    return tower


class TracedVideo(NamedTuple):
    """A video, what STOP did with it, and how it was classified."""

    trace: VideoTrace
    guess: str
    score: float  # of the guess, in [0, 1]
    truth: Optional[str] = None  # None: not known


def trace_prediction(model: nn.Module, item: dict) -> TracedVideo:
    """Trace one video through a recognizer and classify it.

    Args:
        model: in evaluation mode, with STOP as its backbone.
        item: see :func:`trace_video`.

    Raises:
        ConfigError: the model is a retriever, or its backbone is not STOP.
    """
    head: Any = getattr(model, 'cls_head', None)
    if head is None:
        raise ConfigError(
            f'a {type(model).__name__} predicts no classes; give the config of a '
            f'recognizer, or draw single videos with mmstop trace'
        )
    trace, result = trace_video(model, item), predict(model, item)
    names = getattr(head, 'classes', None)

    def name(label: int) -> str:
        return names[label] if names else f'class {label}'

    guess, truth = result.pred_label.item(), result.get('gt_label')
    known = truth is not None and truth.item() >= 0  # -1: a list without labels
    score = result.pred_score[guess].item()
    return TracedVideo(trace, name(guess), score, name(truth.item()) if known else None)


@torch.no_grad()
def predict(model: Any, item: dict) -> Any:
    """Return a recognizer's data sample with what it predicts for one video."""
    return model.test_step(pseudo_collate([item]))[0]


def trace_dataset(model: nn.Module, dataset: Any, num: int) -> dict[int, TracedVideo]:
    """Apply :func:`trace_prediction` to ``num`` videos spread evenly over a data set.

    Returns:
        the videos by their place in the data set.
    """
    places = np.linspace(0, len(dataset) - 1, num).round().astype(int)
    return {int(i): trace_prediction(model, dataset[int(i)]) for i in places}


class Strip(NamedTuple):
    label: str
    frames: np.ndarray  # (T, H, W, 3), uint8, RGB
    most: Optional[float] = None  # the value of the last colour of its map


def strips_of(trace: VideoTrace) -> list[Strip]:
    """Draw marks and maps on the frames: r, W^s, attention of CLIP and of STOP."""

    def heat(label: str, values: np.ndarray, most: float) -> Strip:
        return Strip(label, heat_map(trace.frames, values, most), most)

    outlined = outline_patches(trace.frames, trace.region)
    clip, stop = trace.clip_attention, trace.attention
    most = float(max(clip.max(), stop.max()))
    looks = 'attention of the last CLS, 1 = the mean of all patches that it sees'
    return [
        Strip('Prompted patches r (Eq. 6)', outlined),
        # Without spatial prompts W^s is 0 everywhere.
        heat('Saliency $W^s$ (Eq. 5)', trace.saliency, trace.saliency.max() or 1.0),
        heat(f'CLIP: {looks}', clip, most),
        heat(f'STOP: {looks}', stop, most),
    ]


def _imgs(inputs: Any) -> Tensor:
    return inputs['imgs'] if isinstance(inputs, dict) else inputs
