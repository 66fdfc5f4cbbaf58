"""Draw what STOP prompted and predicted in some test videos, on one screen.

    python tools/analysis/draw_trace.py CONFIG CHECKPOINT --out work_dirs/trace.png

The folder work_dirs/trace gets one picture a video with every map in full, named by the
video's place in the test set. ``mmstop trace`` draws videos of your own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmengine.registry import init_default_scope
from PIL import Image

import mmstop  # noqa: F401  patches and registers before MMAction2 is imported

from mmaction.registry import DATASETS  # isort: skip

from mmstop.apis.model_loading import load_model
from mmstop.config import load_config
from mmstop.visualization import plot_overview, plot_trace, to_image, trace_dataset


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
    init_default_scope('mmaction')
    model = load_model(config, args.checkpoint)  # refuses what does not fit
    dataset = DATASETS.build(config.test_dataloader.dataset)
    videos = trace_dataset(model, dataset, args.num)
    out = Path(args.out)
    strips = out.with_suffix('')
    strips.mkdir(parents=True, exist_ok=True)
    title = f'STOP on {len(videos)} of {len(dataset)} test videos'
    overview = to_image(plot_overview(list(videos.values()), title))
    Image.fromarray(overview).save(out)
    for place, video in videos.items():
        title = f'label: {video.truth}, predicted: {video.guess} {video.score:.2f}'
        plot_trace(video.trace, title).savefig(strips / f'{place:06d}.png')
    print(f'{out}: {len(videos)} videos, each in full in {strips}/')


if __name__ == '__main__':
    main()
