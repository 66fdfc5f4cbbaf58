"""Convert ActivityNet Captions (Krishna et al., ICCV 2017) for paragraph retrieval.

Reads, under the root, the files of captions.zip from
https://cs.stanford.edu/people/ranjaykrishna/densevid/ and, if they exist, lists of the
ids to use, one per line:

    data/video_retrieval/activitynet/annotations/
        train.json, train_list.txt      for training
        val_1.json, val_1_list.txt      for testing, as usual

and writes train.json and val_1.json into the root: one caption per video, its sentences
joined in order. Blank sentences are ignored unless a video has no others. The videos
are videos/v_QOlSCBRmfWY.mp4 and so on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from converter import ConverterParser, Published, Split, run
from official_files import Captions, check_fields, choose, with_suffix

from mmstop.datasets import AnnotationError, read_json
from mmstop.errors import short

SOURCE = 'collaborative-experts, Liu et al., BMVC 2019'
NOTE = 'Sizes are known to differ, since videos disappear from YouTube.'
TRAIN = Published(10_009, 10_009, SOURCE, NOTE)
VAL_1 = Published(4917, 4917, SOURCE, NOTE)


def read_paragraphs(path: Path) -> Captions:
    """Join the sentences of every video."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise AnnotationError(
            f'{path}: expected {{"v_id": {{"sentences": [...], ...}}, ...}}, got a '
            f'{type(data).__name__}; it may be another file, download it again'
        )
    captions = {}
    for video, entry in data.items():
        where = f'{path}: {short(video)}'
        check_fields(entry, {'sentences': list}, where)
        for i, sentence in enumerate(entry['sentences']):
            if not isinstance(sentence, str):
                raise AnnotationError(
                    f'{where}: sentence {i} is {short(sentence)}, expected words; '
                    f'correct it'
                )
        captions[video] = [' '.join(entry['sentences'])]
    return captions


def read_split(path: Path, listed: Path | None) -> Captions:
    """Read one split, either all videos or those of a list."""
    return with_suffix(choose(read_paragraphs(path), path, listed), '.mp4')


def read(args: argparse.Namespace) -> list[Split]:
    """Read both splits."""
    train = read_split(args.train, args.train_list)
    val_1 = read_split(args.val_1, args.val_1_list)
    return [
        Split('train', train, args.train_list or args.train, TRAIN),
        Split('val_1', val_1, args.val_1_list or args.val_1, VAL_1),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Convert ActivityNet Captions as the command line says."""
    parser = ConverterParser(__doc__, 'activitynet')
    parser.add_input('--train', 'annotations/train.json')
    parser.add_input('--train-list', 'annotations/train_list.txt', optional=True)
    parser.add_input('--val-1', 'annotations/val_1.json')
    parser.add_input('--val-1-list', 'annotations/val_1_list.txt', optional=True)
    return run(parser, read, argv)


if __name__ == '__main__':
    sys.exit(main())
