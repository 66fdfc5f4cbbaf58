"""Write the embeddings of videos to an index, for mmstop search.

    mmstop embed videos --out videos.index --config configs/stop_msrvtt.py \\
        --checkpoint best.pth

A repeated call embeds new and changed videos, and drops those that are gone from the
folders. If the command is killed, at most the current batch is lost. Several calls may
write to the same index at once. Links are followed. With torchrun every process takes
its share, on one machine or on several that see the same files under the same paths:

    torchrun --nproc_per_node 8 -m mmstop embed videos --out videos.index ...

In Python, mmstop.apis.VideoIndex('videos.index').load() gives paths and vectors.
"""

import argparse
import json
import os

from .shared import (
    add_json_argument,
    add_model_arguments,
    add_reading_arguments,
    load_model,
    report_unread,
)

WEEK = 7 * 24 * 3600  # seconds that processes wait for the slowest one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('sources', nargs='+', help='folders, files or patterns')
    add('--out', required=True, metavar='INDEX', help='made if need be')
    add_reading_arguments(parser)
    add_model_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> None:
    from mmengine.dist import get_rank, init_dist

    from mmstop.apis import update_index
    from mmstop.compat.distributed import end_process_group

    if 'RANK' in os.environ:  # set by torchrun; exchange names and embeddings
        init_dist('pytorch', backend='gloo', timeout=WEEK)
    clip = load_model(args)
    update = update_index(
        clip, args.sources, args.out, args.batch_size, args.num_workers, progress=True
    )
    if get_rank() == 0:
        report_unread(update.errors)
        if args.json:
            print(json.dumps({'index': args.out, **update._asdict()}))
        else:
            print(
                f'{args.out}: {update.videos} videos, {update.embedded} embedded now, '
                f'{update.forgotten} forgotten, {len(update.errors)} unreadable'
            )
    end_process_group()
