"""Name what videos show, with the config's classes or any words.

The probabilities are over the given labels, so they add up to 1 whether or not one of
them fits.

    mmstop classify clip.mp4 --config configs/stop_ssv2.py --checkpoint best.pth
    mmstop classify 'videos/*.mp4' --labels 'opening a door' 'closing a door'

Without --config, a CLIP model that was not trained on videos answers; see --arch.
"""

import argparse
import json
from collections.abc import Sequence
from typing import NamedTuple

from .shared import (
    add_json_argument,
    add_model_arguments,
    add_reading_arguments,
    count,
    load_model,
    print_table,
    report_unread,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('videos', nargs='+', help='files, folders or patterns')
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument(
        '--labels', nargs='+', help="any words; without: the config's classes"
    )
    labels.add_argument(
        '--label-list',
        help='a file with one label a line, or a list of this package: hmdb51, '
        'moving_shapes, ssv2, ucf101',
    )
    add('--template', help="sentence with {} for the label; without: the config's")
    add('--topk', type=count, default=5, help='labels a video (%(default)s)')
    add_reading_arguments(parser)
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from mmstop.apis import list_videos

    videos = list_videos(args.videos)
    clip = load_model(args)
    errors: dict[str, str] = {}
    found = clip.classify(
        videos,
        args.labels or args.label_list,
        args.topk,
        args.template,
        args.batch_size,
        args.num_workers,
        progress=True,
        on_error=errors.__setitem__,
    )
    report_unread(errors)
    if args.json:
        print(json.dumps([_as_json(*pair, errors) for pair in zip(videos, found)]))
        return
    print_table(
        [
            (video if rank == 0 else '', f'{100 * score:5.1f} %', label)
            for video, predictions in zip(videos, found)
            for rank, (label, score) in enumerate(predictions)
        ]
    )


def _as_json(
    video: str, predictions: Sequence[NamedTuple], errors: dict[str, str]
) -> dict:
    if video in errors:
        return {'video': video, 'error': errors[video]}
    return {'video': video, 'predictions': [p._asdict() for p in predictions]}
