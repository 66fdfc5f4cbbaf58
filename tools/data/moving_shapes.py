"""Write moving-shapes: small real mp4 videos that no single frame can classify.

One shape per video moves in one of eight directions, or stands still, over a
textured, noisy background. It moves on a torus: it leaves at one edge and enters at
the opposite one. The start is uniform over the image, so the position in *any* frame
is uniform whatever the class, and only the order of the frames tells the classes apart.

    python tools/data/moving_shapes.py

writes, in the formats of MMAction2's ``VideoDataset`` and mmstop's
``VideoCaptionDataset``::

    data/moving_shapes/
        videos/{split}/00000.mp4 ...  56 x 56, 24 frames, 12 fps
        {split}.txt                   train/00000.mp4 3
        {split}.json                  {"train/00000.mp4": ["a red circle ..."]}
        {split}_gallery.json          at most 200 of these, all captions distinct
        classes.txt                   one class per line, in label order
        meta.json                     parameters and hash, written last

A split holds every (shape and colour, motion) combination equally often. The splits
train, val and test share the 24 "seen" pairs of shape and colour; the other 24 appear
only in the split unseen.
"""

import argparse
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, Optional

import cv2
import numpy as np
from drawing import CLASSES, COLOURS, SHAPES, Pair, Scene, draw_scene, render_clip
from tqdm import tqdm

FPS = 12
GALLERY = 200  # videos
ANNOTATIONS = ('.txt', '.json', '_gallery.json')
SHARES = {'train': 7, 'val': 1, 'test': 2, 'unseen': 1}  # x 216 videos
VERSION = 1  # increase it whenever the same seed gives different pixels

SEEN_PAIRS = tuple((s, c) for s in range(6) for c in range(8) if (s + c) % 2 == 0)
UNSEEN_PAIRS = tuple((s, c) for s in range(6) for c in range(8) if (s + c) % 2 == 1)


def with_article(noun: str) -> str:
    """Turn 'red circle' into 'a red circle', 'orange ring' into 'an orange ring'."""
    return f'an {noun}' if noun[0] in 'aeiou' else f'a {noun}'


def caption(pair: Pair, label: int, classes: Sequence[str] = CLASSES) -> str:
    """Describe a video, such as 'a red circle moving to the left'."""
    noun = f'{list(COLOURS)[pair[1]]} {SHAPES[pair[0]]}'
    return f'{with_article(noun)} {classes[label]}'


class Task(NamedTuple):
    """The classification task of a dataset."""

    classes: tuple[str, ...]  # in label order
    seen: tuple[Pair, ...]  # pairs of the shape to classify
    unseen: tuple[Pair, ...]  # pairs that occur only in the split of this name
    # (generator, pair, label) -> frames, (T, SIZE, SIZE, 3), uint8 RGB
    film: Callable[[np.random.Generator, Pair, int], np.ndarray]


def film(rng: np.random.Generator, pair: Pair, motion: int) -> np.ndarray:
    """Draw a video of one shape and its motion: (T, SIZE, SIZE, 3), uint8 RGB."""
    return render_clip(draw_scene(rng, pair, motion), rng)


MOVING_SHAPES = Task(CLASSES, SEEN_PAIRS, UNSEEN_PAIRS, film)


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Seed video ``index`` of a split independently of every other video."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), 1 + index])


def scene_of(
    seed: int, split: str, index: int, pair: Pair, motion: int
) -> tuple[Scene, np.random.Generator]:
    """Sample the scene of one video, and return it with the generator of its noise."""
    rng = generator(seed, split, index)
    return draw_scene(rng, pair, motion), rng


def split_order(
    seed: int,
    split: str,
    pairs: Sequence[Pair],
    repeats: int,
    num_classes: int = len(CLASSES),
) -> list[tuple[Pair, int]]:
    """List (pair, label) of every video of a split, balanced and shuffled."""
    videos = [(p, label) for p in pairs for label in range(num_classes)] * repeats
    order = np.random.default_rng([seed, zlib.crc32(split.encode())])
    return [videos[i] for i in order.permutation(len(videos))]


def encode(path: Path, frames: np.ndarray) -> None:
    """Write (T, H, W, 3) RGB frames as an mp4; the file appears only when complete."""
    partial = path.with_suffix('.partial.mp4')
    height, width = frames.shape[1:3]
    fourcc = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(partial), fourcc, FPS, (width, height))
    if not writer.isOpened():
        raise RuntimeError(
            f'OpenCV {cv2.__version__} cannot write mp4v to {partial}; check that the '
            'folder is writable, and install the opencv-python wheel, which has FFmpeg'
        )
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    os.replace(partial, path)


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_suffix('.partial')
    partial.write_text(text)
    os.replace(partial, path)


def write_split(
    out: Path,
    split: str,
    repeats: int,
    seed: int = 0,
    pairs: Sequence[Pair] = SEEN_PAIRS,
    workers: int = 2,
    task: Task = MOVING_SHAPES,
) -> None:
    """Write the videos and the annotation files of one split.

    Every combination of a class and one of ``pairs`` appears ``repeats`` times. A split
    of unseen pairs tests whether classes are recognised independently of appearance.
    """
    folder = out / 'videos' / split
    folder.mkdir(parents=True, exist_ok=True)
    videos = split_order(seed, split, pairs, repeats, len(task.classes))

    def write(index: int) -> None:
        frames = task.film(generator(seed, split, index), *videos[index])
        encode(folder / f'{index:05d}.mp4', frames)

    with ThreadPool(workers) as pool:
        written = pool.imap(write, range(len(videos)))
        list(tqdm(written, desc=split, total=len(videos), unit='video'))
    named = {f'{split}/{i:05d}.mp4': video for i, video in enumerate(videos)}
    lines = [f'{name} {label}\n' for name, (_, label) in named.items()]
    captions = {name: [caption(*video, task.classes)] for name, video in named.items()}
    _replace_text(out / f'{split}.txt', ''.join(lines))
    for end, shown in (('', captions), ('_gallery', gallery(captions))):
        text = json.dumps(shown, indent=0) + '\n'
        _replace_text(out / f'{split}{end}.json', text)


def gallery(captions: dict[str, list[str]]) -> dict[str, list[str]]:
    """Choose the first GALLERY videos whose captions all differ."""
    first = {text: name for name, (text,) in reversed(captions.items())}
    chosen = [name for name, (text,) in captions.items() if first[text] == name]
    return {name: captions[name] for name in chosen[:GALLERY]}


def _digest(out: Path, splits: Sequence[str]) -> str:
    """Hash the annotations and the number of existing videos of each split."""
    digest = hashlib.sha256()
    for name in ['classes.txt', *(f'{s}{end}' for s in splits for end in ANNOTATIONS)]:
        path = out / name
        digest.update(path.read_bytes() if path.exists() else b'lost')
    for split in splits:
        videos = list((out / 'videos' / split).glob('[0-9]*[0-9].mp4'))
        digest.update(str(len(videos)).encode())
    return digest.hexdigest()


def _is_complete(out: Path, parameters: dict) -> bool:
    """Tell whether this exact dataset exists; raise if there is a different one."""
    if not (out / 'meta.json').exists():
        return False
    meta = json.loads((out / 'meta.json').read_text())
    if meta['parameters'] != parameters:
        raise FileExistsError(
            f'{out} holds moving-shapes with {meta["parameters"]}, requested '
            f'{parameters}; replace it with --overwrite or set another --out'
        )
    return meta['sha256'] == _digest(out, list(parameters['splits']))


def write_data_set(
    out: Path,
    splits: dict[str, int],
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    task: Task = MOVING_SHAPES,
) -> bool:
    """Write the dataset unless it exists; return whether anything was written.

    ``splits`` holds for each split the number of videos of every (pair, label).
    """
    parameters = {'version': VERSION, 'seed': seed, 'splits': splits}
    if task is not MOVING_SHAPES:
        parameters['classes'] = list(task.classes)
    meta, started = out / 'meta.json', out / 'meta.started'
    if not overwrite and _is_complete(out, parameters):
        return False
    if out.exists() and any(out.iterdir()) and not (meta.exists() or started.exists()):
        raise FileExistsError(
            f'{out} has files but no meta.json, so this script did not write '
            'them; choose another folder with --out'
        )
    out.mkdir(parents=True, exist_ok=True)
    started.touch()  # marks an interrupted run of this script, which is then redone
    meta.unlink(missing_ok=True)
    for split, repeats in splits.items():
        shutil.rmtree(out / 'videos' / split, ignore_errors=True)
        pairs = task.unseen if split == 'unseen' else task.seen
        write_split(out, split, repeats, seed, pairs, workers, task)
    _replace_text(out / 'classes.txt', ''.join(f'{name}\n' for name in task.classes))
    found = {'parameters': parameters, 'sha256': _digest(out, list(splits))}
    _replace_text(meta, json.dumps(found, indent=2) + '\n')
    started.unlink()
    return True


def main(
    description: str = __doc__.splitlines()[0],
    out: Path = Path('data/moving_shapes'),
    task: Task = MOVING_SHAPES,
    argv: Optional[Sequence[str]] = None,
) -> None:
    """Run the command line for a task."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--out', type=Path, default=out)
    for name, share in SHARES.items():
        pairs = task.unseen if name == 'unseen' else task.seen
        times = len(pairs) * len(task.classes)
        add(f'--{name}', type=int, default=share * 216 // times, help=f'x {times}')
    add('--seed', type=int, default=0)
    add('--workers', type=int, default=2, help='threads')
    add('--overwrite', action='store_true', help='replace a dataset of other settings')
    args = parser.parse_args(argv)
    splits = {name: getattr(args, name) for name in SHARES}
    try:
        new = write_data_set(
            args.out, splits, args.seed, args.workers, args.overwrite, task
        )
    except FileExistsError as error:
        parser.error(str(error))
    total = sum(splits.values()) * len(task.seen) * len(task.classes)
    print(f'{args.out}: {total} videos {"written" if new else "already there"}')


if __name__ == '__main__':
    main()
