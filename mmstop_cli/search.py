"""Find the videos in an index that match a text.

    mmstop search videos.index 'a red circle moving left' \\
        --config configs/stop_msrvtt.py --checkpoint best.pth

The model must be the one that made the index (mmstop embed). The score is the cosine
similarity of the video and text embeddings, in [-1, 1].
"""

import argparse
import json

from .shared import (
    add_json_argument,
    add_model_arguments,
    count,
    load_model,
    print_table,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('index', help='what mmstop embed wrote')
    add('query', help='any text')
    add('--topk', type=count, default=10, help='videos (%(default)s)')
    add(
        '--exact',
        action='store_true',
        help='compare with every video, also in a large index',
    )
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from mmstop.apis import VideoIndex

    with VideoIndex(args.index) as index:
        hits = load_model(args).search(args.query, index, args.topk, args.exact)
    if args.json:
        print(json.dumps([hit._asdict() for hit in hits]))
        return
    print_table([(f'{hit.score:.3f}', hit.path) for hit in hits])
