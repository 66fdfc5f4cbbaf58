"""Draw the test videos that some captions retrieve.

python tools/analysis/draw_retrieval.py CONFIG CHECKPOINT --out work_dirs/retrieval.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mmstop  # noqa: F401  patches and registers before MMAction2 is imported
from mmstop.apis.model_loading import load_model
from mmstop.config import load_config
from mmstop.visualization import Found, Query, plot_rankings

NUM_FRAMES = 4  # frames of a video in the picture


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of a retrieval model')
    parser.add_argument('checkpoint', nargs='?', help='omit it for a zero-shot model')
    parser.add_argument('--out', default='work_dirs/retrieval.png', help='PNG to write')
    parser.add_argument('--num', type=int, default=4, help='number of captions')
    parser.add_argument('--topk', type=int, default=4, help='videos per caption')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    config = load_config(args.config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        loader = Runner.build_dataloader(config.test_dataloader)
    model = load_model(config, args.checkpoint)  # refuses what does not fit
    videos, texts = embed(model, loader)
    chosen = np.linspace(0, len(videos) - 1, args.num).round().astype(int)
    queries = [rank(loader, videos, texts[i][0], int(i), args.topk) for i in chosen]
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    plot_rankings(queries, len(videos)).savefig(args.out, dpi=100)
    print(f'{args.out}: {len(queries)} captions')


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


def captions(loader: DataLoader, index: int) -> list[str]:
    return loader.dataset.get_data_info(index)['text']


def frames(loader: DataLoader, index: int) -> np.ndarray:
    """Return some of the frames that the model sees: (T, H, W, 3), uint8, RGB."""
    clip = loader.dataset[index]['inputs']['imgs'][0].movedim(0, -1).numpy()
    shown = np.linspace(0, len(clip) - 1, min(NUM_FRAMES, len(clip))).round()
    return clip[shown.astype(int)].astype(np.uint8)


if __name__ == '__main__':
    main()
