"""Convert the annotations of LSMDC 2016 (Rohrbach et al., IJCV 2017) for retrieval.

Reads, under the root, the files that come with the videos, which must be requested at
https://sites.google.com/site/describingmovies/download:

    data/video_retrieval/lsmdc/annotations/
        LSMDC16_annos_training.csv
        LSMDC16_annos_val.csv
        LSMDC16_challenge_1000_publictect.csv      (sic) the test split

They are tab-separated, without a header: clip id, start and end aligned, start and end
extracted, sentence. Writes train.json, val.json and test.json into the root. A clip is
videos/<movie>/<clip id>.avi, where the movie is the clip id without its times.

In the training and validation files, a clip id may occur repeatedly, each time with
another sentence; the clip gets all of them. In the test file, which has one sentence
per clip, that is an error.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from converter import ConverterParser, Published, Split, run
from official_files import Captions, read_text

from mmstop.datasets import AnnotationError
from mmstop.errors import short

NUM_FIELDS = 6
TIMES = re.compile(r'_[\d.]+-[\d.]+$')  # _00.03.58.807-00.04.01.320

# From the readme of the dataset, which counts lines, so there may be fewer clips.
SOURCE = 'LSMDC 2016'
NOTE = (
    'Sizes are known to differ: this is the number of lines; the numbers of clips '
    'and of clips with a video are slightly lower.'
)
PUBLISHED = {
    'train': Published(None, 101_079, SOURCE, NOTE),
    'val': Published(None, 7408, SOURCE, NOTE),
    'test': Published(1000, 1000, SOURCE),
}


def read_split(path: Path, repeats: bool) -> Captions:
    """Read the sentences of every clip.

    Args:
        repeats: whether a clip may have more than one.
    """
    captions: Captions = {}
    # Not splitlines, which also breaks at control characters within a sentence.
    for number, line in enumerate(read_text(path).split('\n'), start=1):
        if not line.strip():
            continue
        where = f'{path}: line {number}'
        fields = line.rstrip('\r').split('\t')
        if len(fields) != NUM_FIELDS:
            raise AnnotationError(
                f'{where}: {len(fields)} tab-separated fields, expected {NUM_FIELDS}; '
                f'it may be cut short or another file, download it again'
            )
        clip, sentence = fields[0].strip(), fields[-1]
        if not TIMES.search(clip):
            raise AnnotationError(
                f'{where}: {short(clip)} does not end in _start-end as a clip id does; '
                f'remove the line, or download the file again'
            )
        if not sentence.strip():
            raise AnnotationError(
                f'{where}: {short(clip)} has an empty sentence; remove the line'
            )
        video = f'{TIMES.sub("", clip)}/{clip}.avi'
        if video in captions and not repeats:
            raise AnnotationError(
                f'{where}: {short(clip)} occurs twice; remove one of the lines'
            )
        captions.setdefault(video, []).append(sentence)
    return captions


def read(args: argparse.Namespace) -> list[Split]:
    """Read all three splits."""
    splits = []
    for name, published in PUBLISHED.items():
        path = getattr(args, name)
        captions = read_split(path, repeats=name != 'test')
        splits.append(Split(name, captions, path, published))
    return splits


def main(argv: Sequence[str] | None = None) -> int:
    """Convert LSMDC as the command line says."""
    parser = ConverterParser(__doc__, 'lsmdc')
    parser.add_input('--train', 'annotations/LSMDC16_annos_training.csv')
    parser.add_input('--val', 'annotations/LSMDC16_annos_val.csv')
    parser.add_input('--test', 'annotations/LSMDC16_challenge_1000_publictect.csv')
    return run(parser, read, argv)


if __name__ == '__main__':
    sys.exit(main())
