"""Convert DiDeMo (Hendricks et al., ICCV 2017) for paragraph retrieval.

Reads, under the root, the files of https://github.com/LisaAnne/LocalizingMoments (its
folder data) and, if they exist, lists of the videos to use, one per line:

    data/video_retrieval/didemo/annotations/
        train_data.json, train_list.txt
        val_data.json, val_list.txt
        test_data.json, test_list.txt

and writes train.json, val.json and test.json into the root: one caption per video, its
sentences joined in file order. In the annotations, many videos have a different
extension from their files, or none, so extensions are ignored in comparisons. The name
written is that of the file in videos/. If there is no such file, it is the name in the
annotations (with .mp4 if it has no extension).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from converter import ConverterParser, Published, Split, run
from official_files import Captions, check_records, choose, stem

from mmstop.datasets import read_json

SOURCE = 'DiDeMo, ICCV 2017'
NOTE = (
    'Sizes are known to differ: 13 of the videos are not in the archive that '
    'LocalizingMoments downloads from, and lists with and without such videos are in '
    'use; those of collaborative-experts have 8,392 training videos.'
)
PUBLISHED = {  # one caption per video
    'train': Published(8395, 8395, SOURCE, NOTE),
    'val': Published(1065, 1065, SOURCE, NOTE),
    'test': Published(1004, 1004, SOURCE, NOTE),
}


def read_split(path: Path, listed: Path | None) -> Captions:
    """Join the sentences of each video, for all videos or those of a list."""
    entries = read_json(path)
    check_records(entries, {'video': str, 'description': str}, str(path))
    names: dict[str, str] = {}
    sentences: Captions = {}
    for entry in entries:
        name = entry['video'].strip()
        video = stem(name)
        names.setdefault(video, name if name != video else f'{name}.mp4')
        sentences.setdefault(video, []).append(entry['description'])
    captions = {video: [' '.join(texts)] for video, texts in sentences.items()}
    chosen = choose(captions, path, listed)
    return {names[video]: texts for video, texts in chosen.items()}


def read(args: argparse.Namespace) -> list[Split]:
    """Read all three splits."""
    splits = []
    for name, published in PUBLISHED.items():
        path, listed = getattr(args, name), getattr(args, f'{name}_list')
        captions = read_split(path, listed)
        splits.append(Split(name, captions, listed or path, published))
    return splits


def main(argv: Sequence[str] | None = None) -> int:
    """Convert DiDeMo as the command line says."""
    parser = ConverterParser(__doc__, 'didemo')
    for name in PUBLISHED:
        parser.add_input(f'--{name}', f'annotations/{name}_data.json')
        parser.add_input(
            f'--{name}-list', f'annotations/{name}_list.txt', optional=True
        )
    return run(parser, read, argv)


if __name__ == '__main__':
    sys.exit(main())
