"""Convert the annotations of VATEX (Wang et al., ICCV 2019) for retrieval.

Reads, under the root, either the files that HGR (Chen et al., CVPR 2020,
https://github.com/cshizhe/hgr_v2t) and later retrieval papers use:

    data/video_retrieval/vatex/annotations/
        ref_captions.json                       {"video id": ["a caption", ...], ...}
        train_list.txt, test_list.txt           ids, one per line
        val_list.txt                            optional

or, if there is no ref_captions.json, those of the official release,
https://eric-xw.github.io/vatex-website/download.html:

    data/video_retrieval/vatex/annotations/
        vatex_training_v1.0.json                   for training
        vatex_validation_v1.0.json                 for validation, optional
        vatex_public_test_english_v1.1.json        for testing, optional
        {train,val,test}_list.txt                  optional

A list selects the videos of its split from all files. So a val_list.txt and a
test_list.txt with the two halves of the validation videos give HGR's splits. Without a
list, a split is its whole file.

Writes train.json, and val.json and test.json if there are videos for them, into the
root. The videos are videos/Ptf_2VRj-V0_000122_000132.mp4 and so on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from converter import ConverterParser, Published, Split, run
from official_files import Captions, check_records, choose, with_suffix

from mmstop.datasets import AnnotationError, check_captions, read_json
from mmstop.errors import short

NAMES = ('train', 'val', 'test')
FIELDS = {'en': 'enCap', 'zh': 'chCap'}
NOTE = 'Sizes are known to differ, since videos disappear from YouTube.'
RETRIEVAL = {
    'train': Published(25_991, 259_910, 'HGR, CVPR 2020', NOTE),
    'val': Published(1500, 15_000, 'HGR, CVPR 2020', NOTE),
    'test': Published(1500, 15_000, 'HGR, CVPR 2020', NOTE),
}
OFFICIAL = {
    'train': Published(25_991, 259_910, 'VATEX, ICCV 2019', NOTE),
    'val': Published(3000, 30_000, 'VATEX, ICCV 2019', NOTE),
    'test': Published(6000, 60_000, 'VATEX, ICCV 2019: public test', NOTE),
}


def read_release(path: Path, language: str) -> Captions:
    """Read a file of the official release."""
    entries, field = read_json(path), FIELDS[language]
    check_records(entries, {'videoID': str, field: list}, str(path))
    captions: Captions = {}
    for entry in entries:
        video = entry['videoID']
        if video in captions:
            raise AnnotationError(
                f'{path}: {short(video)} occurs twice; join or remove one of the '
                f'entries'
            )
        captions[video] = entry[field]
    check_captions(captions, path)
    return captions


def merge(files: dict[str, Captions], paths: dict[str, Path]) -> Captions:
    """Merge the captions of all files, from which a list may choose."""
    everything: Captions = {}
    origins: dict[str, Path] = {}
    for name, captions in files.items():
        for video in captions:
            if origins.setdefault(video, paths[name]) != paths[name]:
                raise AnnotationError(
                    f'{paths[name]}: {short(video)} is in {origins[video]} too; remove '
                    f'it from one of them'
                )
        everything |= captions
    return everything


def read_reference(args: argparse.Namespace) -> list[Split]:
    """Choose the splits from the single file of all captions."""
    captions = read_json(args.captions)
    check_captions(captions, args.captions)
    splits = []
    for name in NAMES:
        listed = getattr(args, f'{name}_list')
        if listed:
            chosen = with_suffix(choose(captions, args.captions, listed), '.mp4')
            splits.append(Split(name, chosen, listed, RETRIEVAL[name]))
        elif name != 'val':
            raise AnnotationError(
                f'{args.root / "annotations" / name}_list.txt: there is no such file, '
                f'and {args.captions} has no splits of its own; set the list with '
                f'--{name}-list'
            )
    return splits


def read_releases(args: argparse.Namespace) -> list[Split]:
    """Use the splits of the official release, or choose from all of it by lists."""
    paths = {name: getattr(args, name) for name in NAMES if getattr(args, name)}
    if 'train' not in paths:
        raise AnnotationError(
            f'{args.root / "annotations"}: neither ref_captions.json nor '
            f'vatex_training_v1.0.json is there; download one as described in --help, '
            f'or set its path with --captions or --train'
        )
    files = {name: read_release(path, args.language) for name, path in paths.items()}
    everything = merge(files, paths)
    splits = []
    for name in NAMES:
        listed = getattr(args, f'{name}_list')
        if listed:
            chosen = choose(everything, args.root / 'annotations', listed)
            split = Split(name, with_suffix(chosen, '.mp4'), listed, RETRIEVAL[name])
        elif name in files:
            captions = with_suffix(files[name], '.mp4')
            split = Split(name, captions, paths[name], OFFICIAL[name])
        else:
            continue
        splits.append(split)
    return splits


def read(args: argparse.Namespace) -> list[Split]:
    """Read the splits in whichever of the two forms exists."""
    release = args.train or args.val or args.test
    if args.captions and (release or args.language != 'en'):
        raise AnnotationError(
            f'{args.captions}: has its own English captions, so no others can be '
            f'taken from {release or "the official release"}; move one of them away'
        )
    return read_reference(args) if args.captions else read_releases(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert VATEX as the command line says."""
    parser = ConverterParser(__doc__, 'vatex')
    folder = 'annotations'
    parser.add_input('--captions', f'{folder}/ref_captions.json', optional=True)
    parser.add_input('--train', f'{folder}/vatex_training_v1.0.json', optional=True)
    parser.add_input('--val', f'{folder}/vatex_validation_v1.0.json', optional=True)
    parser.add_input(
        '--test', f'{folder}/vatex_public_test_english_v1.1.json', optional=True
    )
    for name in NAMES:
        parser.add_input(f'--{name}-list', f'{folder}/{name}_list.txt', optional=True)
    parser.add_argument(
        '--language',
        choices=FIELDS,
        default='en',
        help='language of the captions in the official release (en)',
    )
    return run(parser, read, argv)


if __name__ == '__main__':
    sys.exit(main())
