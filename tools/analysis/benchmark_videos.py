"""Measure how fast videos are read.

    python tools/analysis/benchmark_videos.py decoders
    python tools/analysis/benchmark_videos.py shrinking --workers 0 1 2
    python tools/analysis/benchmark_videos.py embedding --workers 1 2
    python tools/analysis/benchmark_videos.py CONFIG --workers 0 1 2

``decoders`` opens H.264 videos and decodes a clip spread evenly over each. A config
loads its training data, without a model, by decoder and number of worker processes.
``shrinking`` does so with configs/stop_msrvtt.py, before and after
tools/data/shrink_videos.py. ``embedding`` embeds videos as ``mmstop embed`` does, by
ViT-B/32 with random weights, and tells which share of the time the model is busy. All
three make their own videos.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Optional

import av
import cv2
import numpy as np
from measuring import positive, rounds, timed
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from reports import table

from mmstop.apis import VideoCLIP, update_index, video_clip
from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.datasets.loading import DECODERS, open_video
from mmstop.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs' / 'stop_msrvtt.py'
SHRINK = ROOT / 'tools' / 'data' / 'shrink_videos.py'
EXACT, REFERENCE = DECODERS


class Video(NamedTuple):
    """An H.264 video in MP4 at 25 frames per second, with x264's defaults."""

    seconds: int
    width: int
    height: int


VIDEOS = Video(10, 320, 240), Video(120, 640, 360)
WHOLE = Video(10, 640, 360)
ARCH, BATCH = 'ViT-B-32-quickgelu', 8  # as in mmstop embed


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('what', help='decoders, shrinking, embedding, or a config')
    add('--workers', nargs='+', type=int, default=[0, 1, 2], help='data workers')
    add('--num-videos', type=positive, default=32, help='videos to load per round')
    add('--repeats', type=positive, default=3, help='rounds')
    args = parser.parse_args(argv)
    try:
        with TemporaryDirectory() as folder:
            if args.what == 'decoders':
                rows = list(time_decoders(Path(folder), args.repeats))
            elif args.what == 'shrinking':
                rows = list(shrinking(Path(folder), args))
            elif args.what == 'embedding':
                rows = list(embedding(Path(folder), args))
            else:
                cfg = load_config(args.what)
                check_config(cfg, ['train'])
                rows = list(loading(cfg, args))
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(table(list(rows[0]), [row.values() for row in rows]))
    return 0


# --- Decoders -----------------------------------------------------------------------


def time_decoders(folder: Path, repeats: int) -> Iterator[dict]:
    """Read clips of 12 and 64 frames with each decoder.

    Raises:
        RuntimeError: the decoders give different frames.
    """
    for video in VIDEOS:
        path = str(folder / f'{video.seconds}.mp4')
        write(video, path)
        for frames in (12, 64):
            if not np.array_equal(*(clip(path, frames, d) for d in DECODERS)):
                raise RuntimeError(f'{DECODERS} give different frames of {path}')
            works = {d: partial(clip, path, frames, d) for d in DECODERS}
            seconds = rounds(works, repeats)
            ratios = np.divide(seconds[EXACT], seconds[REFERENCE])
            yield {
                'video': f'{video.seconds} s, {video.width} x {video.height}',
                'frames': frames,
                **{f'{d}, ms': 1e3 * float(np.median(seconds[d])) for d in DECODERS},
                'ratio': float(np.median(ratios)),
            }


def clip(path: str, frames: int, decoder: str) -> np.ndarray:
    """Open a video and decode frames spread evenly over it."""
    reader = open_video(path, decoder)
    chosen = np.linspace(0, len(reader) - 1, frames).astype(int)
    return reader.get_batch(chosen).asnumpy()


def write(video: Video, path: str) -> None:
    """Write a video of a noisy picture that a camera pans over."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (video.height // 8 + 40, video.width // 8 + 40, 3))
    scene = cv2.resize(coarse.astype(np.uint8), None, fx=8, fy=8)
    with av.open(path, 'w') as container:
        stream = container.add_stream('libx264', 25, options={'preset': 'veryfast'})
        stream.width, stream.height = video.width, video.height
        stream.pix_fmt = 'yuv420p'
        for t in range(25 * video.seconds):
            x, y = int(100 + 90 * np.sin(t / 40)), int(100 + 90 * np.cos(t / 60))
            picture = scene[y : y + video.height, x : x + video.width]
            noise = rng.integers(0, 12, (*picture.shape[:2], 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture // 2 + noise)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# --- Training data ------------------------------------------------------------------


def loading(cfg: Config, args: argparse.Namespace) -> Iterator[dict]:
    """Load a config's training data; all combinations take turns.

    Raises:
        ConfigError: there is no training data.
    """
    loader = cfg.get('train_dataloader')
    if loader is None:
        raise ConfigError(f'{cfg.filename} has no train_dataloader to measure')
    init_default_scope(cfg.get('default_scope') or 'mmaction')
    set_multi_processing(**(cfg.get('env_cfg') or {}).get('mp_cfg', {}))
    keys = list(itertools.product(DECODERS, args.workers))
    rates: dict = {key: [] for key in keys}
    for _, (decoder, workers) in itertools.product(range(args.repeats), keys):
        # Otherwise a small dataset would spend its time starting workers.
        changed = dict(num_workers=workers, persistent_workers=workers > 0)
        data = Runner.build_dataloader({**with_decoder(loader, decoder), **changed}, 0)
        if len(data) == 0:
            raise ConfigError(f'{cfg.filename}: the training data fills no batch')
        rates[decoder, workers].append(throughput(data, args.num_videos, workers))
    for (decoder, workers), values in rates.items():
        rate = float(np.median(values))
        yield {'decoder': decoder, 'workers': workers, 'videos/s': rate}


def with_decoder(node: Any, decoder: str) -> Any:
    """Copy a config, and set the decoder wherever it opens videos."""
    if isinstance(node, (list, tuple)):
        return type(node)(with_decoder(child, decoder) for child in node)
    if not isinstance(node, dict):
        return node
    copy = {key: with_decoder(child, decoder) for key, child in node.items()}
    opens = str(node.get('type')).endswith('CheckedDecordInit')
    return {**copy, 'decoder': decoder} if opens else copy


def throughput(data: Any, num_videos: int, workers: int) -> float:
    """Load videos as fast as possible, epoch after epoch: videos per second.

    The first batches do not count, since other workers are still starting.
    """
    batches = itertools.chain.from_iterable(itertools.repeat(data))
    for _ in range(max(1, workers)):
        next(batches)
    start, seen = time.perf_counter(), 0
    while seen < num_videos:
        seen += len(next(batches)['data_samples'])
    return seen / (time.perf_counter() - start)


def shrinking(root: Path, args: argparse.Namespace) -> Iterator[dict]:
    """Load whole and shrunk videos through the same pipeline."""
    (root / 'whole').mkdir()
    names = [f'{i}.mp4' for i in range(args.num_videos // 2)]
    for name in names:
        write(WHOLE, str(root / 'whole' / name))
    captions = {name: ['a camera pans'] for name in names}
    (root / 'train.json').write_text(json.dumps(captions))
    whole: dict = {}
    for folder, options in (('whole', None), ('small', []), ('3 fps', ['--fps', '3'])):
        if options is not None:
            command = [sys.executable, SHRINK, root / 'whole', root / folder, *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        data = dict(data_root=str(root), ann_file='train.json')
        data['data_prefix'] = dict(video=folder)
        cfg = load_config(str(CONFIG))
        cfg.train_dataloader.merge(dict(batch_size=4, dataset=data))
        for row in loading(cfg, args):
            first = whole.setdefault((row['decoder'], row['workers']), row['videos/s'])
            yield {'videos': folder, **row, 'times faster': row['videos/s'] / first}


# --- Embedding ----------------------------------------------------------------------


def embedding(folder: Path, args: argparse.Namespace) -> Iterator[dict]:
    """Embed videos with several numbers of reader processes."""
    paths = [str(folder / f'{i}.mp4') for i in range(args.num_videos)]
    for path in paths:
        write(VIDEOS[0], path)
    model: Any = VideoCLIP.from_clip(ARCH, None)
    busy: list[float] = []
    embed = video_clip.embed_batch

    def watched(*args: Any) -> Any:
        seconds, batch = timed(embed, *args)
        busy.append(seconds)
        return batch

    video_clip.embed_batch = watched
    assert model.identity  # it is hashed once
    for workers in args.workers:
        busy.clear()
        index = folder / f'{workers}.index'
        seconds, _ = timed(update_index, model, paths, index, BATCH, workers)
        yield {
            'workers': workers,
            'videos/s': len(paths) / seconds,
            'model busy': sum(busy) / seconds,
        }


if __name__ == '__main__':
    sys.exit(main())
