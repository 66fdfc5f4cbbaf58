"""A run of seconds: six tiny videos, three colours, the tiny CLIP with random weights.

    config = write_tiny_run(tmp_path)

gives a config file that trains, validates and tests; its data lie beside it.
``write_tiny_retrieval`` does so for captions.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import TEXT, TINY, VIT

ROOT = Path(__file__).parents[1]
COLOURS = {'red': (230, 30, 30), 'green': (30, 200, 30), 'blue': (30, 30, 230)}  # RGB
SIZE = 64  # pixels, of the videos; the model sees 32. decord wants multiples of 64
NUM_FRAMES = 4


def write_video(path: Path, colour: tuple[int, int, int]) -> None:
    """Write eight frames of a colour with a dark square that moves to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), fourcc, 8, (SIZE, SIZE))
    for t in range(8):
        frame = np.full((SIZE, SIZE, 3), colour[::-1], np.uint8)
        frame[24:40, 8 + 4 * t : 20 + 4 * t] //= 2
        writer.write(frame)
    writer.release()


def link_test_videos(folder: Path) -> None:
    """Let testing read the same videos under another path, as they must differ."""
    link = folder / 'test_videos'
    if not link.is_symlink():  # both tasks may use one folder
        link.symlink_to('videos')


def tiny_config(folder: Path) -> dict:
    """Return the config of a run whose data are in ``folder``."""
    pipeline = [
        dict(type='CheckedDecordInit'),
        dict(type='UniformSample', clip_len=NUM_FRAMES),
        dict(type='DecordDecode'),
        dict(type='Resize', scale=(-1, 32)),
        dict(type='CenterCrop', crop_size=32),
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs'),
    ]
    test_pipeline = [dict(step) for step in pipeline]
    test_pipeline[1]['test_mode'] = True
    dataset = dict(
        type='CheckedVideoDataset',
        data_root=str(folder),
        data_prefix=dict(video='videos'),
        ann_file='train.txt',
        pipeline=pipeline,
    )
    test_dataset = dict(
        dataset,
        ann_file='test.txt',
        data_prefix=dict(video='test_videos'),
        pipeline=test_pipeline,
        test_mode=True,
    )
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
    test_loader = dict(
        loader,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=test_dataset,
    )
    return dict(
        custom_imports=dict(imports='mmstop', allow_failed_imports=False),
        default_scope='mmaction',
        model=dict(
            type='Recognizer3D',
            backbone=dict(type='STOPCLIPViT', clip=VIT),
            cls_head=dict(
                type='CLIPTextHead',
                text=TEXT,
                classes=list(COLOURS),
                template='{}',
                average_clips='prob',
            ),
            data_preprocessor=dict(
                type='ActionDataPreprocessor',
                mean=[122.771, 116.746, 104.094],
                std=[68.501, 66.632, 70.323],
                format_shape='NCTHW',
            ),
        ),
        train_dataloader=dict(
            loader,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dataset,
            worker_init_fn=dict(type='seed_worker'),
        ),
        val_dataloader=test_loader,
        test_dataloader=test_loader,
        val_evaluator=dict(type='AccMetric'),
        test_evaluator=dict(type='AccMetric'),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-3),
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=[
            # Its end is its own, so that a run may be made longer when it is resumed.
            dict(type='CosineAnnealingLR', end=4, convert_to_iter_based=True)
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='TrainableCheckpointHook', interval=1, max_keep_ckpts=3
            ),
            visualization=dict(type='VideoVisualizationHook', enable=False),
        ),
        custom_hooks=[dict(type='ModelInfoHook'), dict(type='ReseedHook')],
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        randomness=dict(seed=0),
        work_dir=str(folder / 'work'),
    )


def write_tiny_run(folder: Path) -> Path:
    """Write videos, annotations and config into ``folder``; return the config file."""
    lines = []
    for label, (name, colour) in enumerate(COLOURS.items()):
        for take in ('a', 'b'):  # the takes of a class have the same file name
            write_video(folder / 'videos' / take / f'{name}.mp4', colour)
            lines.append(f'{take}/{name}.mp4 {label}')
    link_test_videos(folder)
    (folder / 'train.txt').write_text('\n'.join(lines))
    (folder / 'test.txt').write_text('\n'.join(lines[:5]))  # not a multiple of two
    path = folder / 'tiny.py'
    Config(tiny_config(folder)).dump(path)
    return path


def write_tiny_retrieval(folder: Path) -> Path:
    """Write the same videos with captions, and a config that retrieves them."""
    captions: dict[str, list[str]] = {}
    for take, (name, colour) in itertools.product('ab', COLOURS.items()):
        video = f'{take}/{name}.mp4'
        write_video(folder / 'videos' / video, colour)
        captions[video] = [f'{i} times {name}' for i in range(10)]
    link_test_videos(folder)
    pairs = {video: texts[:2] for video, texts in captions.items()}
    (folder / 'train.json').write_text(json.dumps(pairs))
    (folder / 'test.json').write_text(json.dumps(dict(list(captions.items())[:5])))
    cfg = tiny_config(folder)
    cfg['model'] = dict(
        type='CLIPRetriever',
        backbone=cfg['model']['backbone'],
        text=TEXT,
        data_preprocessor=dict(
            type='MultiModalDataPreprocessor',
            preprocessors=dict(
                imgs=cfg['model']['data_preprocessor'],
                text=dict(type='CaptionPreprocessor'),
            ),
        ),
    )
    for split in ('train', 'test'):  # that of validation is the one for testing
        dataset = cfg[f'{split}_dataloader']['dataset']
        dataset.update(type='VideoCaptionDataset', ann_file=f'{split}.json')
        dataset['pipeline'][-1:] = [
            dict(type='CaptionTokenize', arch=TINY, max_tokens=16),
            dict(type='PackActionInputs', collect_keys=('imgs', 'text')),
        ]
    cfg['val_evaluator'] = cfg['test_evaluator'] = dict(type='VideoTextRetrieval')
    cfg['default_hooks']['checkpoint']['save_best'] = 'retrieval/t2v/R1'
    cfg['default_hooks']['checkpoint']['rule'] = 'greater'
    path = folder / 'retrieval.py'
    Config(cfg).dump(path)
    return path


def train_wildly(config: Path) -> Path:
    """Write a checkpoint as training does, with prompts far from their start."""
    runner = Runner.from_cfg(Config.fromfile(config))
    torch.manual_seed(1)
    for parameter in runner.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    path = config.parent / f'{config.stem}.pth'
    runner.save_checkpoint(
        path.parent, path.name, save_optimizer=False, save_param_scheduler=False
    )
    return path


def environment(**variables: str) -> dict[str, str]:
    """Return the environment in which the tools find this checkout."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
        'OMP_NUM_THREADS': '1',
        **variables,
    }


def run(*command: object, **variables: str) -> subprocess.CompletedProcess:
    """Run a command to its end; its output is in ``stdout`` and ``stderr``."""
    return subprocess.run(
        [str(part) for part in command],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
