"""One training step of a retriever, in one process or in each that torchrun starts."""

import os
import sys
from typing import Any, Optional

import torch
from mmaction.structures import ActionDataSample
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from tiny import TEXT, VIT, wild
from torch import Tensor

from mmstop.registry import MODELS

CAPTIONS = (
    'a red circle', 'the red shape', 'a blue square', 'a green ring', 'one dot',
    'a blue shape', 'a white cross', 'it is red',
)  # fmt: skip
VIDEOS = ('red', 'red', 'blue', 'green', None, 'blue', None, 'red')


def build(trainable: Optional[str] = '.') -> Any:
    """Build a STOP whose text tower learns too, or none of it."""
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='CLIPRetriever',
            backbone=dict(type='STOPCLIPViT', clip=VIT),
            text=dict(TEXT, trainable=trainable),
            data_preprocessor=dict(
                type='mmaction.MultiModalDataPreprocessor',
                preprocessors=dict(text=dict(type='CaptionPreprocessor')),
            ),
        )
    )


def batch(part: slice = slice(None)) -> tuple[dict, list]:
    """Return inputs and samples of a part of the whole batch."""
    tokens = MODELS.build(TEXT).tokenize(CAPTIONS)
    inputs = {'imgs': wild(8, 5)[part, None], 'text': tokens[part]}
    samples = [
        ActionDataSample(metainfo={} if name is None else {'video_id': name})
        for name in VIDEOS[part]
    ]
    return inputs, samples


def step(model: Any, part: slice = slice(None)) -> dict[str, Tensor]:
    """Return loss and gradients of a part of the batch."""
    inputs, samples = batch(part)
    loss = model(inputs, samples, mode='loss')['loss_contrastive']
    loss.backward()
    trained = getattr(model, 'module', model).named_parameters()
    gradients = {name: p.grad for name, p in trained if p.requires_grad}
    return {'loss': loss.detach(), **gradients}


def main(out: str, keep: str) -> None:
    """Take the step as one of several processes, its captions encoded before or not."""
    init_dist('pytorch', backend='gloo')
    rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    size = 8 // world
    kept = keep == 'True'
    model = build(None if kept else '.')
    if kept:
        model.keep_captions(batch()[0]['text'])
    model = MMDistributedDataParallel(model, find_unused_parameters=False)
    found = step(model, slice(rank * size, rank * size + size))
    torch.save(found, f'{out}.{rank}')
    torch.distributed.destroy_process_group()
    os._exit(0)  # see mmstop.engine.ending


if __name__ == '__main__':
    main(*sys.argv[1:])
