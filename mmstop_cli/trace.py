"""Draw what STOP attended to and prompted in videos.

    mmstop trace clip.mp4 --config configs/stop_ssv2.py --checkpoint best.pth \\
        --out drawn

writes drawn/clip.png and drawn/clip.mp4 (H.264). Both show what a recognizer predicts,
and the frames that the model saw, with the prompted patches outlined (Eq. 6 of the
paper) and their saliency W^s (Eq. 5). The picture also shows the attention of the last
CLS of frozen CLIP and of STOP, and the number of prompts N^t (Eq. 11) and the variation
W^t (Eq. 10) between the frames.

The patches and prompts shown are those chosen at the input of the first block;
``--blocks 0 5 11`` shows the choices of several blocks for one video together.
"""

import argparse
from pathlib import Path
from typing import Any

from .shared import add_cfg_options, read_config, report_unread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('videos', nargs='+', metavar='VIDEO', help='video files')
    add('--config', required=True, help='config file of a model with STOP')
    add('--checkpoint', required=True, help='what was trained with it')
    add('--out', required=True, metavar='DIR', help='folder of the pictures')
    add(
        '--blocks',
        nargs='+',
        type=int,
        default=[0],
        metavar='BLOCK',
        help='whose choices to draw, from 0 for the first; several are drawn together',
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write ``DIR/NAME.png`` and ``DIR/NAME.mp4`` for every video that can be read.

    Raises:
        ConfigError: the config, the checkpoint, a block or the path of a video is
            invalid, or PyAV cannot write H.264.
    """
    from mmstop.apis.model_loading import load_model, reading_pipelines
    from mmstop.apis.video_reading import VideoReader, read_videos
    from mmstop.errors import ConfigError
    from mmstop.text import printable
    from mmstop.visualization import (
        check_encoder,
        plot_blocks,
        plot_trace,
        trace_blocks,
        write_trace_video,
    )
    from mmstop.visualization.drawing import NEUTRAL
    from mmstop.visualization.hooks import describe
    from mmstop.visualization.trace import predict

    check_encoder()  # before building the model
    names = [Path(video).stem for video in args.videos]
    for video, name in zip(args.videos, names):
        if not Path(video).is_file():
            raise ConfigError(f'video {video!r}: there is no such file')
        if names.count(name) > 1:
            raise ConfigError(
                f'video {video!r}: several are called {name!r}, as their pictures '
                f'would be; draw them into different folders'
            )
    cfg = read_config(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    model = load_model(cfg, args.checkpoint)
    head: Any = getattr(model, 'cls_head', None)  # none in a retriever
    reader = VideoReader(*reading_pipelines(cfg), args.videos)
    for video, name, (item, error) in zip(args.videos, names, read_videos(reader)):
        if error is not None:
            report_unread({video: error})
            continue
        traces = trace_blocks(model, item, args.blocks)
        header: list[str] = []
        colour = NEUTRAL
        if head is not None:
            classes = getattr(head, 'classes', None)
            header, colour = describe(predict(model, item), classes)
        title = ', '.join([name, *header])
        if len(traces) > 1:
            figure = plot_blocks(traces, title)
        else:
            figure = plot_trace(traces[0], title)
        figure.savefig(out / f'{name}.png')
        film = out / f'{name}.mp4'
        write_trace_video(film, *traces, header=header, colour=colour)
        print(printable(f'{out / name}.png, {film}'))
