"""Draw the test videos that some captions retrieve, and say what is wrong with them.

    python tools/analysis/draw_retrieval.py CONFIG CHECKPOINT --out retrieval.png
    python tools/analysis/draw_retrieval.py CONFIG CHECKPOINT --out retrieval.png \\
        --parts 'an? (?P<colour>\\S+) (?P<shape>\\S+) (?P<motion>.+)'

``--parts`` is for captions that have one form. It names their parts by a regular
expression, and a table tells in which of them the best video differs from the caption.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from reports import table
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mmstop  # noqa: F401  patches and registers before MMAction2 is imported
from mmstop.apis.model_loading import load_model
from mmstop.config import KeyValues, load_config
from mmstop.errors import ConfigError
from mmstop.visualization import Found, Query, plot_rankings

NUM_FRAMES = 4  # frames of a video in the picture


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('config', help='config of a retrieval model')
    add('checkpoint', nargs='?', help='omit it for a zero-shot model')
    add('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE')
    add('--out', default='work_dirs/retrieval.png', help='PNG to write')
    add('--num', type=int, default=4, help='number of captions to draw')
    add('--topk', type=int, default=4, help='videos per caption')
    add(
        '--parts',
        type=pattern,
        metavar='REGEX',
        help='named groups of a caption; count in which of them the best videos differ',
    )
    return parser.parse_args(argv)


def pattern(text: str) -> re.Pattern:
    """Read a regular expression with named groups."""
    try:
        found = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f'{text!r}: {error}') from None
    if not found.groupindex:
        raise argparse.ArgumentTypeError(f'{text!r} names no part; write (?P<NAME>.+)')
    return found


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        draw(args)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def draw(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.cfg_options)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        loader = Runner.build_dataloader(config.test_dataloader)
    model = load_model(config, args.checkpoint)  # refuses what does not fit
    videos, texts = embed(model, loader)
    chosen = np.linspace(0, len(videos) - 1, args.num).round().astype(int)
    queries = [rank(loader, videos, texts[i][0], int(i), args.topk) for i in chosen]
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    plot_rankings(queries, len(videos)).savefig(args.out, dpi=100)
    print(f'{args.out}: {len(queries)} captions')
    if args.parts:
        best = [(videos @ text.T).argmax(0).tolist() for text in texts]
        wrong = Counter(differences(loader, best, args.parts))
        share = 100 / wrong.total()
        rows = [(' and '.join(parts), n * share) for parts, n in wrong.most_common()]
        print(table(['the best video differs in', '% of the captions'], rows))


@torch.no_grad()
def embed(model: nn.Module, loader: DataLoader) -> tuple[Tensor, list[Tensor]]:
    """Embed a test set: videos (videos, E), and the captions (k, E) of each."""
    features = [s.features for batch in loader for s in model.test_step(batch)]
    videos = torch.stack([f.video_feature for f in features])
    return videos, [f.text_feature.reshape(-1, videos.shape[1]) for f in features]


def rank(loader: DataLoader, videos: Tensor, text: Tensor, own: int, k: int) -> Query:
    """Rank the videos by a caption of video ``own``."""
    scores = videos @ text
    best = scores.topk(min(k, len(scores))).indices.tolist()
    return Query(
        caption=captions(loader, own)[0],
        rank=int((scores >= scores[own]).sum()),
        found=[
            Found(
                frames=frames(loader, i),
                caption=captions(loader, i)[0],
                score=scores[i].item(),
                correct=i == own,
            )
            for i in best
        ],
    )


def differences(
    loader: DataLoader, best: Sequence[Sequence[int]], parts: re.Pattern
) -> Iterator[tuple[str, ...]]:
    """Yield the names of the parts in which the best video differs from a caption.

    Args:
        best: index of the video that each caption of each video finds first.

    Raises:
        ConfigError: a caption is not of the form ``parts``.
    """
    for own, found in enumerate(best):
        for caption, video in zip(captions(loader, own), found):
            asked = split(caption, parts)
            shown = [split(other, parts) for other in captions(loader, video)]
            wrong = [n for n in asked if all(s[n] != asked[n] for s in shown)]
            yield tuple(wrong) or ('nothing',)


def split(caption: str, parts: re.Pattern) -> dict[str, str]:
    match = parts.fullmatch(caption)
    if not match:
        raise ConfigError(
            f'--parts {parts.pattern!r}: the caption {caption!r} is not of this form; '
            f'give a pattern that all captions match'
        )
    return match.groupdict()


def captions(loader: DataLoader, index: int) -> list[str]:
    return loader.dataset.get_data_info(index)['text']


def frames(loader: DataLoader, index: int) -> np.ndarray:
    """Return some of the frames that the model sees: (T, H, W, 3), uint8, RGB."""
    clip = loader.dataset[index]['inputs']['imgs'][0].movedim(0, -1).numpy()
    shown = np.linspace(0, len(clip) - 1, min(NUM_FRAMES, len(clip))).round()
    return clip[shown.astype(int)].astype(np.uint8)


if __name__ == '__main__':
    sys.exit(main())
