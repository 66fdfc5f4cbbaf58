"""Make the pictures of README.md and docs/concepts.md.

    make demo
    python tools/docs/make_pictures.py work_dirs/demo/stop_moving_shapes/best_*.pth

They show what STOP, trained on Moving Shapes by the demo, does with four test videos on
one screen, as the demo draws it; and, in full, with one that moves, with one that does
not, and with the first one halted for half of its frames.
"""

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

import mmstop  # noqa: F401  patches and registers before MMAction2 is imported

from mmaction.registry import DATASETS  # isort: skip

from mmstop.apis.model_loading import load_model
from mmstop.datasets import load_classes
from mmstop.visualization import (
    plot_overview,
    plot_trace,
    to_image,
    trace_dataset,
    trace_video,
)

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'stop_moving_shapes.py'
OUT = ROOT / 'docs' / 'pictures'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='of configs/stop_moving_shapes.py')
    args = parser.parse_args()
    config = Config.fromfile(CONFIG)
    init_default_scope('mmaction')
    model = load_model(config, args.checkpoint)  # refuses what does not fit
    dataset = DATASETS.build(config.test_dataloader.dataset)
    videos = list(trace_dataset(model, dataset, 4).values())
    figure = plot_overview(videos, f'STOP on 4 of {len(dataset)} test videos')
    # With a palette the file is a fifth. MAXCOVERAGE keeps rare colours in it.
    picture = Image.fromarray(to_image(figure)).quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    )
    picture.save(OUT / 'overview.png', optimize=True)
    names = load_classes(config.classes)
    moving = first_of(dataset, names.index('moving to the right'))
    still = first_of(dataset, names.index('standing still'))
    for name, item, title in (
        ('moving', moving, 'A shape that moves to the right'),
        ('still', still, 'A shape that stands still'),
        ('halted', halt(moving), 'The first video, halted for half of its frames'),
    ):
        path = OUT / f'{name}.png'
        plot_trace(trace_video(model, item), title).savefig(path)
        print(f'{path}: {path.stat().st_size / 1000:.0f} kB')


def first_of(dataset: Any, label: int) -> dict:
    """Return the first test video of a class."""
    labels = [dataset.get_data_info(i)['label'] for i in range(len(dataset))]
    return dataset[labels.index(label)]


def halt(item: dict) -> dict:
    """Repeat the first frame through half of a video."""
    inputs = item['inputs'].clone()  # (1, 3, T, H, W)
    half = inputs.shape[2] // 2
    inputs[:, :, :half] = inputs[:, :, :1]
    return dict(item, inputs=inputs)


if __name__ == '__main__':
    main()
