"""Convert the annotations of MSVD (Chen and Dolan, ACL 2011) for retrieval.

Reads, under the root, the files of
https://github.com/ArrowLuo/CLIP4Clip/releases/download/v0.0/msvd_data.zip:

    data/video_retrieval/msvd/msvd_data/
        raw-captions.pkl                                {video id: [[word, ...], ...]}
        train_list.txt, val_list.txt, test_list.txt     ids, one per line

and writes train.json, val.json and test.json into the root. The videos are
videos/-4wsuPCjDBc_5_15.avi and so on. No code in the pickle is run: anything in it
other than containers and texts is an error.
"""

import argparse
import pickle
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converter import ConverterParser, Published, Split, run
from official_files import Captions, choose, with_suffix

from mmstop.datasets import AnnotationError
from mmstop.errors import short

# The splits of Venugopalan et al., ICCV 2015, as listed by collaborative-experts.
# Caption counts differ from paper to paper, so they are not compared.
SOURCE = 'collaborative-experts, Liu et al., BMVC 2019'
PUBLISHED = {
    'train': Published(1200, None, SOURCE),
    'val': Published(100, None, SOURCE),
    'test': Published(670, None, SOURCE),
}
CONTAINERS = {  # the only names that a pickle may import
    ('collections', 'OrderedDict'): OrderedDict,
    ('collections', 'defaultdict'): defaultdict,
    ('builtins', 'list'): list,
    ('__builtin__', 'list'): list,  # Python 2
}


class PlainUnpickler(pickle.Unpickler):
    """Read a pickle that holds only containers, texts and numbers."""

    def find_class(self, module: str, name: str) -> Any:
        """Reject all imports except those of containers."""
        if (module, name) not in CONTAINERS:
            raise AnnotationError(f'it asks for {module}.{name}, which could run code')
        return CONTAINERS[module, name]


def read_pickle(path: Path) -> Any:
    """Read a pickle written by Python 2 or 3; texts of Python 2 are bytes."""
    try:
        with path.open('rb') as file:
            return PlainUnpickler(file, encoding='bytes').load()
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises almost anything
        raise AnnotationError(
            f'{path}: not a complete pickle of plain captions ({error}); download it '
            f'again from a source that you trust'
        ) from None


def text(value: Any) -> Any:
    """Decode the bytes of Python 2; return anything else unchanged."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode('latin1')


def sentence(words: Any) -> str:
    """Join the words of a caption, which may also be a single string."""
    if isinstance(words, (str, bytes)):
        return text(words)
    return ' '.join(map(text, words))


def read_captions(path: Path) -> Captions:
    """Join the words of every caption."""
    data = read_pickle(path)
    if not isinstance(data, dict) or not data:
        raise AnnotationError(
            f'{path}: expected {{video id: [[word, ...], ...], ...}}, got a '
            f'{type(data).__name__}; it may be another file, download it again'
        )
    captions: Captions = {}
    for video, texts in data.items():
        try:
            if not isinstance(texts, (list, tuple)):
                raise TypeError
            captions[text(video)] = [sentence(words) for words in texts]
        except TypeError:
            raise AnnotationError(
                f'{path}: {short(text(video))}: expected lists of words; it may be '
                f'another file, download it again'
            ) from None
    return captions


def read(args: argparse.Namespace) -> list[Split]:
    """Read all three splits."""
    captions = read_captions(args.captions)
    splits = []
    for name, published in PUBLISHED.items():
        listed = getattr(args, f'{name}_list')
        chosen = with_suffix(choose(captions, args.captions, listed), '.avi')
        splits.append(Split(name, chosen, listed, published))
    return splits


def main(argv: Sequence[str] | None = None) -> int:
    """Convert MSVD as the command line says."""
    parser = ConverterParser(__doc__, 'msvd')
    parser.add_input('--captions', 'msvd_data/raw-captions.pkl')
    for name in PUBLISHED:
        parser.add_input(f'--{name}-list', f'msvd_data/{name}_list.txt')
    return run(parser, read, argv)


if __name__ == '__main__':
    sys.exit(main())
