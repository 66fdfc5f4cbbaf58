"""Pre-train the tiny CLIP of moving-shapes on still frames and captions.

    python tools/data/pretrain_moving_shapes_clip.py

draws stills of all 48 pairs of shape and colour, captions them by colour, shape and
position, trains open_clip's model with open_clip's loss and tokenizer, and writes
``mmstop/assets/ViT-moving-shapes.safetensors`` (float16), with a metrics file.

No caption mentions motion ('moving', 'standing', 'still'), and every image is a still.
So anything that a method later knows about motion, it has learnt from the videos.
"""

import argparse
import dataclasses
import json
import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import decord
import drawing
import moving_shapes as ms
import numpy as np
import open_clip
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

ARCH = 'ViT-moving-shapes'
ASSETS = Path(__file__).parents[2] / 'mmstop' / 'assets'
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
POSITION_GAIN = 8  # open_clip's initial position embeddings are too small to learn from

COLOURS = tuple(drawing.COLOURS)
# Row by row; the first phrase of each is used for testing.
PLACES = (
    ('on the upper left', 'at the upper left', 'to the upper left'),
    ('at the top', 'up at the top', 'up in the middle'),
    ('on the upper right', 'at the upper right', 'to the upper right'),
    ('on the left', 'at the left', 'to the left'),
    ('in the middle', 'in the centre', 'at the centre'),
    ('on the right', 'at the right', 'to the right'),
    ('on the lower left', 'at the lower left', 'to the lower left'),
    ('at the bottom', 'down at the bottom', 'down in the middle'),
    ('on the lower right', 'at the lower right', 'to the lower right'),
)
TEMPLATES = ('{}', '{}', 'a photo of {}', 'a picture of {}', 'a video of {}')
ATTRIBUTES = ('colour', 'shape', 'place')
SIZES = (len(COLOURS), len(drawing.SHAPES), len(PLACES))
# The attributes that a partial caption keeps, as columns of KINDS.
KEPT = ((0, 1), (0, 2), (1, 2), (0,), (1,), (2,))
# Every (colour, shape, place) that a still can show, 432 x 3.
KINDS = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing='ij'), -1).reshape(-1, 3)


def place_of(centre: Sequence[float]) -> int:
    """Return the cell of the 3 x 3 grid that contains a centre (x, y)."""
    column, row = (int(3 * c / drawing.SIZE) for c in centre)
    return 3 * row + column


def describe(
    kind: Sequence[int],
    rng: np.random.Generator | None = None,
    kept: Sequence[int] = (0, 1, 2),
) -> str:
    """Caption a still, in plain words or (with a generator) in random words."""
    noun = drawing.SHAPES[kind[1]] if 1 in kept else 'shape'
    noun = f'{COLOURS[kind[0]]} {noun}' if 0 in kept else noun
    text = ms.with_article(noun)
    if 2 in kept:
        phrases = PLACES[kind[2]]
        phrase = phrases[0 if rng is None else rng.integers(len(phrases))]
        first = rng is not None and rng.random() < 0.2
        text = f'{phrase} {text}' if first else f'{text} {phrase}'
    return text if rng is None else TEMPLATES[rng.integers(len(TEMPLATES))].format(text)


def draw_still(rng: np.random.Generator, kind: Sequence[int]) -> np.ndarray:
    """Draw a still of a (colour, shape, place): (H, W, 3) uint8 RGB."""
    colour, shape, place = kind
    scene = drawing.draw_scene(rng, (shape, colour))
    corner = np.array([place % 3, place // 3])
    x, y = (corner + rng.random(2)) * (drawing.SIZE / 3)  # uniform over the cell
    still = drawing.render_frame(dataclasses.replace(scene, start=(x, y)), rng)
    if rng.random() < 0.5:  # like mp4 frames, JPEG has blocks and coarse chroma
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        still = cv2.imdecode(cv2.imencode('.jpg', still, quality)[1], 1)
    return still


def draw_stills(seed: int, pool: str, repeats: int) -> Tensor:
    """Draw ``repeats`` stills of every kind: (repeats * 432, H, W, 3) uint8 RGB."""
    kinds = tqdm(np.tile(KINDS, (repeats, 1)), desc=pool, unit='still')
    stills = [draw_still(ms.generator(seed, pool, i), k) for i, k in enumerate(kinds)]
    return torch.from_numpy(np.stack(stills))


def normalise(frames: Tensor) -> Tensor:
    """Turn (B, H, W, 3) uint8 RGB into CLIP's input: (B, 3, H, W)."""
    return ((frames / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).movedim(-1, 1)


def build() -> tuple[nn.Module, open_clip.SimpleTokenizer]:
    """Build the untrained CLIP and its tokenizer."""
    open_clip.add_model_config(ASSETS / f'{ARCH}.json')
    model = open_clip.create_model(ARCH)
    model.visual.positional_embedding.data *= POSITION_GAIN
    return model, open_clip.get_tokenizer(ARCH)


@torch.no_grad()
def zero_shot(
    model: nn.Module,
    tokenizer: open_clip.SimpleTokenizer,
    frames: Tensor,
    kinds: np.ndarray,
) -> dict[str, float]:
    """Measure how often the correct caption is the nearest.

    Args:
        frames: (B, H, W, 3) uint8 RGB.
        kinds: the true (colour, shape, place) of each, (B, 3).

    Returns:
        accuracies in [0, 1]. ``colour``: among the 8 captions that differ only in
        colour and have the true shape and place; ``shape`` (6) and ``place`` (9)
        likewise; ``all``: among all 432 captions.
    """
    model.eval()
    text = model.encode_text(tokenizer([describe(k) for k in KINDS]), normalize=True)
    images = [model.encode_image(normalise(f), True) for f in frames.split(512)]
    scores = (torch.cat(images) @ text.T).unflatten(1, SIZES)
    colour, shape, place = truth = torch.from_numpy(kinds).T
    rows = torch.arange(len(kinds))
    varied = {
        'colour': scores[rows, :, shape, place],
        'shape': scores[rows, colour, :, place],
        'place': scores[rows, colour, shape],
    }
    right = {
        name: (score.argmax(1) == truth[i]).float().mean().item()
        for i, (name, score) in enumerate(varied.items())
    }
    best = torch.from_numpy(KINDS)[scores.flatten(1).argmax(1)]
    return {**right, 'all': (best == truth.T).all(1).float().mean().item()}


def draw_batch(
    rng: np.random.Generator, groups: int
) -> tuple[np.ndarray, list[str], list[list[str]], list[Tensor]]:
    """Draw kinds and captions: every shape at ``groups`` places and colours.

    Shape is the hardest to see. Since it is crossed with the others, the model has to
    learn it.

    Returns:
        kinds as indices, (B,), all distinct; a full caption of each; for each of KEPT,
        the distinct captions with just those attributes; and for each of KEPT, the
        index of the one that fits each image, (B,).
    """
    chosen = rng.permutation(SIZES[0] * SIZES[2])[:groups]
    crossed = np.arange(len(KINDS)).reshape(SIZES).swapaxes(1, 2).reshape(-1, SIZES[1])
    batch = crossed[chosen].ravel()
    full, partial, fits = [describe(KINDS[k], rng) for k in batch], [], []
    for kept in KEPT:
        _, first, fit = np.unique(
            KINDS[batch][:, kept], axis=0, return_index=True, return_inverse=True
        )
        partial.append([describe(KINDS[k], rng, kept) for k in batch[first]])
        fits.append(torch.from_numpy(fit.ravel()))
    return batch, full, partial, fits


def train(
    model: nn.Module,
    tokenizer: open_clip.SimpleTokenizer,
    stills: Tensor,
    steps: int,
    groups: int,
    lr: float,
    seed: int,
) -> None:
    """Train on stills and captions that are sampled at every step.

    No two captions compared in a loss mean the same. Full captions, one per image, use
    CLIP's loss. A partial caption fits several images, so partial captions use only the
    image-to-text half of that loss.
    """
    rng = np.random.default_rng(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    weights = [{'params': decayed}, {'params': others, 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(weights, lr, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = min(50, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * s / steps)),
    )
    clip_loss, repeats = open_clip.ClipLoss(), len(stills) // len(KINDS)
    model.train()
    bar = tqdm(range(steps), desc='train', unit='step')
    for _ in bar:
        batch, full, partial, fits = draw_batch(rng, groups)
        still = batch + len(KINDS) * rng.integers(repeats, size=len(batch))
        image = model.encode_image(normalise(stills[still]), normalize=True)
        text = model.encode_text(tokenizer(sum(partial, full)), normalize=True)
        text, *parts = text.split([len(full), *map(len, partial)])
        scale = model.logit_scale.exp()
        easier = [
            nn.functional.cross_entropy(scale * image @ part.T, fit)
            for part, fit in zip(parts, fits, strict=True)
        ]
        loss = clip_loss(image, text, scale) + sum(easier) / len(easier)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(0, math.log(100))
        bar.set_postfix(loss=f'{loss.item():.3f}', shape=f'{easier[4].item():.3f}')


def video_frames(seed: int) -> tuple[Tensor, np.ndarray]:
    """Decode four frames of every test video of moving-shapes, with their kinds."""
    frames, kinds = [], []
    times = np.linspace(0, drawing.NUM_FRAMES - 1, 4).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        ms.write_split(Path(folder), 'test', 2, seed)
        order = ms.split_order(seed, 'test', ms.SEEN_PAIRS, 2)
        for i, (pair, motion) in enumerate(order):
            reader = decord.VideoReader(f'{folder}/videos/test/{i:05d}.mp4')
            frames.append(reader.get_batch(times).asnumpy())
            scene, _ = ms.scene_of(seed, 'test', i, pair, motion)
            for centre in drawing.centres(scene)[times]:
                kinds.append((pair[1], pair[0], place_of(centre)))
    return torch.from_numpy(np.concatenate(frames)), np.array(kinds)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', type=Path, default=ASSETS, help='folder of weights')
    parser.add_argument('--steps', type=int, default=1400)
    parser.add_argument('--groups', type=int, default=16, help='batch size / 6')
    parser.add_argument('--lr', type=float, default=1.5e-3)
    parser.add_argument('--stills', type=int, default=93, help='stills per kind, 432 x')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    began = time.time()
    stills = draw_stills(args.seed, 'stills-train', args.stills)
    model, tokenizer = build()
    train(model, tokenizer, stills, args.steps, args.groups, args.lr, args.seed)
    seconds = time.time() - began
    half = {name: value.half() for name, value in model.state_dict().items()}
    model.load_state_dict(half)  # so that the metrics are those of the file

    held_out = draw_stills(args.seed, 'stills-test', 8)
    metrics = {
        'command': shlex.join(['python', *sys.argv]),
        'steps': args.steps,
        'seconds': round(seconds),
        'stills': zero_shot(model, tokenizer, held_out, np.tile(KINDS, (8, 1))),
        'video_frames': zero_shot(model, tokenizer, *video_frames(args.seed)),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / f'{ARCH}.safetensors'
    partial = weights.with_suffix('.partial')
    partial.write_bytes(safetensors.torch.save(half))
    os.replace(partial, weights)
    text = json.dumps(metrics, indent=2)
    (args.out / f'{ARCH}.metrics.json').write_text(text + '\n')
    print(text)
    print(f'{weights}: {weights.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()
