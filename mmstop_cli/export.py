"""Write the video and text towers of a trained model as ONNX or torch.export files.

    mmstop export configs/stop_msrvtt.py best.pth --out exported

A file takes any number of videos or texts. Videos need the number of frames that the
config tests with. Texts need tokens that are padded to the context length. A file also
holds what its user needs to know (mean and standard deviation, classes, ...). ONNX
needs the packages of mmstop[export]; docs/own_videos.md shows how to use the files
without mmstop.
"""

import argparse
from pathlib import Path
from typing import Any

from .shared import add_cfg_options, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('config', help='config file of a recognizer or a retriever')
    add('checkpoint', nargs='?', help='what was trained; none for a zero-shot config')
    add('--out', type=Path, required=True, metavar='DIR', help='made if need be')
    add('--format', default='onnx', help='onnx or pt2 (%(default)s)')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    from mmstop.apis.export import check_format, export_towers
    from mmstop.apis.model_loading import load_model

    check_format(args.format)  # before the model is built
    cfg = read_config(args)
    num_frames = _num_frames(cfg)
    model = load_model(cfg, args.checkpoint, 'cpu')
    for path in export_towers(model, num_frames, args.out, args.format):
        print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


def _num_frames(cfg: Any) -> int:
    """Return how many frames of a video the config tests with."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    for step in dataset.get('pipeline', []):
        if 'clip_len' in step:
            return step['clip_len']
    raise ValueError(
        f'{cfg.filename}: no step of test_dataloader.dataset.pipeline has a clip_len, '
        f'which tells how many frames the exported tower takes; add one that samples '
        f'frames, such as UniformSample'
    )
