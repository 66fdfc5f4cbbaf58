"""Draw which patches and which gaps STOP prompted in some test videos.

python tools/analysis/draw_trace.py CONFIG CHECKPOINT --out work_dirs/trace.png

``mmstop trace`` draws videos of your own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from PIL import Image

import mmstop  # noqa: F401  mends and registers before MMAction2 is imported

from mmaction.apis import init_recognizer  # isort: skip
from mmaction.registry import DATASETS  # isort: skip

from mmstop.engine.checks import load_config
from mmstop.visualization import plot_trace, to_image, trace_video


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='work_dirs/trace.png', help='PNG to write')
    parser.add_argument('--num', type=int, default=4, help='how many videos')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    config = load_config(args.config)
    model = init_recognizer(config, args.checkpoint, device=get_device())
    dataset = DATASETS.build(config.test_dataloader.dataset)
    names = model.cls_head.sentences
    pictures = []
    for index in np.linspace(0, len(dataset) - 1, args.num).round().astype(int):
        item = dataset[int(index)]
        trace = trace_video(model, item)
        with torch.no_grad():
            (result,) = model.test_step(pseudo_collate([item]))
        truth, guess = (names[x.item()] for x in (result.gt_label, result.pred_label))
        pictures.append(to_image(plot_trace(trace, f'{truth}; predicted: {guess}')))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(args.out)
    print(f'{args.out}: {len(pictures)} videos')


if __name__ == '__main__':
    main()
