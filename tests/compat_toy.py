"""A toy to train in one process or, as a script, in every process torchrun starts."""

import gc
import os
import sys
import types
import uuid
from pathlib import Path
from typing import Optional
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import LoggerHook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner


@MODELS.register_module('CompatToy')
class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str = 'tensor') -> object:
        error = (self.linear(x) - y).square()
        return {'loss': error.mean()} if mode == 'loss' else list(error)


class ToyMetric(BaseMetric):
    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [sample.mean().item() for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {'error': np.mean(results)}  # a np.float64, as AccMetric returns


class ToyData(torch.utils.data.Dataset):
    metainfo = {'classes': Config({'split': {'train': ['a', 'b']}}).split}

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict:
        generator = torch.Generator().manual_seed(i)
        return {
            'x': torch.randn(3, generator=generator),
            'y': torch.randn(2, generator=generator),
        }


def train(
    work_dir: Path,
    epochs: int,
    hook: object = 'CheckpointHook',
    options: Optional[dict] = None,
    **kwargs: object,
) -> Runner:
    """Train the toy on batches of 8, over however many processes there are.

    Args:
        hook: which one saves, every epoch and the best.
        options: of that hook.
    """
    world = int(os.environ.get('WORLD_SIZE', 1))
    loader = dict(
        dataset=ToyData(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=8 // world,
        collate_fn=dict(type='default_collate'),
    )
    torch.manual_seed(int(os.environ.get('RANK', 0)))  # DDP takes the weights of rank 0
    runner = Runner(
        model=Toy(),
        work_dir=str(work_dir),
        experiment_name=uuid.uuid4().hex,
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=Evaluator(ToyMetric()),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.5, begin=0, end=4, by_epoch=False),
            dict(type='CosineAnnealingLR', T_max=4),
        ],
        default_hooks=dict(
            checkpoint=dict(
                type=hook, interval=1, save_best='error', rule='less', **options or {}
            )
        ),
        **kwargs,
    )
    runner.train()
    return runner


def writes_metrics(folder: Path, rank: int) -> bool:
    """Tell whether a process of that rank writes the metrics of a test."""
    hook, runner = LoggerHook(), mock.MagicMock(log_dir=str(folder))
    hook.json_log_path = f'{rank}.json'
    runner.log_processor.get_log_after_epoch.return_value = {'acc': 1.0}, ''
    with mock.patch('mmengine.dist.utils.get_rank', return_value=rank):
        hook.after_test_epoch(runner)
    return Path(folder, f'{rank}.json').exists()


def main(compat_file: str, work_dir: str) -> None:
    """Train with the mends alone: all of mmstop takes longer to import than to use."""
    mmstop = sys.modules['mmstop'] = types.ModuleType('mmstop')
    mmstop.__path__ = [str(Path(compat_file).parents[1])]
    from mmstop import compat

    compat.apply()
    runner = train(Path(work_dir), 4, launcher='pytorch', env_cfg={})  # asks for nccl
    assert torch.distributed.get_backend() == 'gloo'
    assert not runner.model.find_unused_parameters
    weights = runner.model.module.state_dict()
    torch.save(weights, Path(work_dir) / f'rank{runner.rank}.pth')
    del runner, weights  # or gloo's threads may abort the process at its end
    gc.collect()
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(*sys.argv[1:])
