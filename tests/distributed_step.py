"""One training step of both tasks, in one process or in each that torchrun starts."""

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import torch
from mmaction.structures import ActionDataSample
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from tiny import TEXT, VIT, still, wild
from torch import Tensor

from mmstop.compat.distributed import end_process_group
from mmstop.registry import MODELS

CASES = list(
    itertools.product(
        ('recognition', 'retrieval'),
        (torch.float32, torch.float64),
        (5, 1),  # frames
    )
)
KEPT = 'retrieval with kept captions'
CASES.append((KEPT, torch.float32, 5))
CLASSES = ('red', 'green', 'blue')
CAPTIONS = (
    'a red circle', 'the red shape', 'a blue square', 'a green ring', 'one dot',
    'a blue shape', 'a white cross', 'it is red',
)  # fmt: skip
VIDEOS = ('red', 'red', 'blue', 'green', None, 'blue', None, 'red')
BACKBONE = dict(type='STOPCLIPViT', clip=VIT)
TASKS: dict[str, dict] = dict(
    recognition=dict(
        type='mmaction.Recognizer3D',
        backbone=BACKBONE,
        cls_head=dict(type='CLIPTextHead', text=TEXT, classes=CLASSES, template='{}'),
        data_preprocessor=dict(type='mmaction.ActionDataPreprocessor'),
    ),
    retrieval=dict(
        type='CLIPRetriever',
        backbone=BACKBONE,
        text=dict(TEXT, trainable='.'),
        data_preprocessor=dict(
            type='mmaction.MultiModalDataPreprocessor',
            preprocessors=dict(text=dict(type='CaptionPreprocessor')),
        ),
    ),
)
TASKS[KEPT] = dict(TASKS['retrieval'], text=TEXT)


def build(task: str) -> Any:
    """Build a STOP of a task; that of retrieval has a text tower that learns too."""
    torch.manual_seed(0)
    model = MODELS.build(TASKS[task])
    if task == KEPT:
        model.keep_captions(model.text.tokenize(CAPTIONS))
    return model


def videos(frames: int) -> Tensor:
    """Make six videos that change, a still one and a black one.

    With four processes the last one gets both that have no temporal prompts.
    """
    black = torch.zeros(1, 3, frames, 32, 32)
    return torch.cat([wild(6, frames), still(1, frames), black])


def batch(task: str, frames: int = 5, part: slice = slice(None)) -> tuple[Any, list]:
    """Return inputs and samples of a part of the whole batch."""
    imgs = videos(frames)[part, None]
    if task == 'recognition':
        labels = [CLASSES.index(name or 'green') for name in VIDEOS[part]]
        return imgs, [ActionDataSample().set_gt_label(label) for label in labels]
    tokens = MODELS.build(TEXT).tokenize(CAPTIONS)
    samples = [
        ActionDataSample(metainfo={} if name is None else {'video_id': name})
        for name in VIDEOS[part]
    ]
    return {'imgs': imgs, 'text': tokens[part]}, samples


def step(
    model: Any, task: str, dtype: torch.dtype, frames: int, part: slice = slice(None)
) -> dict[str, Tensor]:
    """Return loss and gradients of a part of the batch."""
    inputs, samples = batch(task, frames, part)
    if task == 'recognition':
        loss = model(inputs.to(dtype), samples, mode='loss')['loss_cls']
    else:
        inputs['imgs'] = inputs['imgs'].to(dtype)
        loss = model(inputs, samples, mode='loss')['loss_contrastive']
    loss.backward()
    trained = getattr(model, 'module', model).named_parameters()
    gradients = {name: p.grad for name, p in trained if p.requires_grad}
    return {'loss': loss.detach(), **gradients}


def gloo_threads() -> list[str]:
    """List the threads of this process that work for gloo."""
    names = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')]
    return [name for name in names if 'gloo' in name]


def main(out: str) -> None:
    """Take the steps as one of several processes."""
    init_dist('pytorch', backend='gloo')
    rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    size = 8 // world
    part = slice(rank * size, rank * size + size)
    found = {}
    for task, dtype, frames in CASES:
        model = MMDistributedDataParallel(
            build(task).to(dtype), find_unused_parameters=False
        )
        found[task, dtype, frames] = step(model, task, dtype, frames, part)
    torch.save(found, f'{out}.{rank}')
    assert gloo_threads()
    del model
    end_process_group()
    assert not gloo_threads()


if __name__ == '__main__':
    main(*sys.argv[1:])
