"""Convert the annotations of MSR-VTT (Xu et al., CVPR 2016) for retrieval.

Reads, under the root, the files of
https://github.com/ArrowLuo/CLIP4Clip/releases/download/v0.0/msrvtt_data.zip:

    data/video_retrieval/msrvtt/msrvtt_data/
        MSRVTT_data.json            all captions
        MSRVTT_train.9k.csv         the training videos, split 1k-A
        MSRVTT_train.7k.csv         the official training and validation videos
        MSRVTT_JSFUSION_test.csv    the test split 1k-A, one caption per video

and writes train_9k.json, train_7k.json and test_JSFUSION.json, as MMAction2 names them,
into the root. The videos are videos/video7.mp4 and so on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from converter import ConverterParser, Published, Split, run
from official_files import (
    Captions,
    check_fields,
    check_known,
    check_records,
    read_csv,
    with_suffix,
)

from mmstop.datasets import read_json

# 1k-A: Yu et al., ECCV 2018 (JSFusion), as listed by collaborative-experts. 7k is the
# 6,513 + 497 videos of the official training and validation splits. 20 captions each.
TRAIN_9K = Published(9000, 180_000, 'JSFusion, ECCV 2018')
TRAIN_7K = Published(7010, 140_200, 'MSR-VTT, CVPR 2016: training and validation')
TEST = Published(1000, 1000, 'JSFusion, ECCV 2018, called 1k-A')


def read_sentences(path: Path) -> Captions:
    """Collect the captions of every video, in file order."""
    data = read_json(path)
    check_fields(data, {'sentences': list}, str(path))
    sentences = data['sentences']
    check_records(sentences, {'video_id': str, 'caption': str}, f'{path}: sentences')
    captions: Captions = {}
    for sentence in sentences:
        captions.setdefault(sentence['video_id'], []).append(sentence['caption'])
    return captions


def read_train(path: Path, captions: Captions, data: Path) -> Captions:
    """Select the captions of the videos that a CSV file lists."""
    ids = [row['video_id'] for row in read_csv(path, 'video_id', ['video_id'])]
    check_known(ids, captions, data, path)
    return with_suffix({video: captions[video] for video in ids}, '.mp4')


def read_test(path: Path) -> Captions:
    """Read the single caption of each test video from the CSV file itself."""
    rows = read_csv(path, 'video_id', ['video_id', 'sentence'])
    return with_suffix({row['video_id']: [row['sentence']] for row in rows}, '.mp4')


def read(args: argparse.Namespace) -> list[Split]:
    """Read all three splits."""
    captions = read_sentences(args.data)
    train_9k = read_train(args.train_9k, captions, args.data)
    train_7k = read_train(args.train_7k, captions, args.data)
    return [
        Split('train_9k', train_9k, args.train_9k, TRAIN_9K),
        Split('train_7k', train_7k, args.train_7k, TRAIN_7K),
        Split('test_JSFUSION', read_test(args.test), args.test, TEST),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Convert MSR-VTT as the command line says."""
    parser = ConverterParser(__doc__, 'msrvtt')
    parser.add_input('--data', 'msrvtt_data/MSRVTT_data.json')
    parser.add_input('--train-9k', 'msrvtt_data/MSRVTT_train.9k.csv')
    parser.add_input('--train-7k', 'msrvtt_data/MSRVTT_train.7k.csv')
    parser.add_input('--test', 'msrvtt_data/MSRVTT_JSFUSION_test.csv')
    return run(parser, read, argv)


if __name__ == '__main__':
    sys.exit(main())
