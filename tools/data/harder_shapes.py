"""Write two harder variants of moving-shapes, which need more than the frame order.

    python tools/data/harder_shapes.py distractors
    python tools/data/harder_shapes.py tempo

write ``data/shapes_distractors`` and ``data/shapes_tempo``, in the same format and by
the same rules as ``moving_shapes.py``.

**distractors**: a red shape and two of other colours move over a drifting background,
each with a different motion; the class is the motion of the red one. A model that sees
all three motions, but not which shape makes which, is correct in 1 of 3 cases. A model
that ignores the order of the frames cannot tell a motion from its opposite: at most
5 of 9.

**tempo**: one shape moves back and forth along a line, once or twice, or moves all the
way, faster and faster or slower and slower. Moving back and forth once or twice visits
the same 24 positions, and slowing down is speeding up played backwards. So a model that
sees all frames but ignores their order is correct in 1 of 2 cases, and with six frames
in 2 of 3. A single frame gives no information: 1 of 4.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

import cv2
import drawing
import moving_shapes as one
import numpy as np
from drawing import CLASSES, COLOURS, MOTIONS, NUM_FRAMES, SHAPES, SIZE, Pair

RED = list(COLOURS).index('red')
TEMPI = (
    'moving forth and back once',
    'moving forth and back twice',
    'moving faster and faster',
    'moving slower and slower',
)


def film_distractors(rng: np.random.Generator, pair: Pair, motion: int) -> np.ndarray:
    """Draw a red shape among two others: (T, SIZE, SIZE, 3), uint8 RGB."""
    motions = rng.permutation(np.delete(np.arange(len(CLASSES)), motion))[:2]
    colours = rng.permutation(np.delete(np.arange(len(COLOURS)), RED))[:2]
    scenes = [
        drawing.draw_scene(rng, (rng.integers(len(SHAPES)), colour), other)
        for colour, other in zip(colours, motions)
    ]
    scenes.append(drawing.draw_scene(rng, pair, motion))  # in front of the others
    frames = drift(rng)
    for scene in scenes:
        smaller = replace(scene, radius=0.75 * scene.radius)  # so that three fit
        frames = drawing.paint(frames, smaller, drawing.centres(scene))
    return drawing.add_noise(frames, rng)


def drift(rng: np.random.Generator) -> np.ndarray:
    """Draw a texture that drifts on a torus: (T, SIZE, SIZE, 3), float32."""
    mean = rng.uniform(60, 110) + rng.uniform(-12, 12, 3)
    tile = mean + rng.normal(0, 14, (4, 4, 3))
    texture = cv2.resize(
        np.tile(tile, (3, 3, 1)), (3 * SIZE, 3 * SIZE), interpolation=cv2.INTER_CUBIC
    )[SIZE : 2 * SIZE, SIZE : 2 * SIZE]
    angle, travel = rng.uniform(0, 2 * np.pi), rng.uniform(10, 30)
    steps = np.linspace(0, travel, NUM_FRAMES)
    shifts = np.stack([steps * np.sin(angle), steps * np.cos(angle)], 1).round()
    frames = [np.roll(texture, shift, (0, 1)) for shift in shifts.astype(int)]
    return np.stack(frames).astype(np.float32)


def film_tempo(rng: np.random.Generator, pair: Pair, tempo: int) -> np.ndarray:
    """Draw a shape on a line, in a direction that is independent of the class."""
    direction = rng.integers(len(CLASSES) - 1)
    scene = drawing.draw_scene(rng, pair, direction)
    way = scene.travel * course(tempo)[:, None]
    places = (scene.start + way * np.array(MOTIONS[CLASSES[direction]])) % SIZE
    return drawing.render(scene, places, rng)


def course(tempo: int) -> np.ndarray:
    """Return the positions along the line for a tempo: (T,), in [0, 1]."""
    half = NUM_FRAMES // 2
    time = np.linspace(0, 1, NUM_FRAMES)
    if tempo == 0:
        places = np.arange(half)
        return np.concatenate([places, places[::-1]]) / (half - 1)
    if tempo == 1:  # visits every position twice too, the odd ones on the way back
        places = np.concatenate([np.arange(0, half, 2), np.arange(1, half, 2)[::-1]])
        return np.tile(places, 2) / (half - 1)
    return time**2 if tempo == 2 else 1 - (1 - time) ** 2


TASKS = {
    'distractors': one.Task(
        CLASSES,
        tuple((shape, RED) for shape in (0, 2, 4)),
        tuple((shape, RED) for shape in (1, 3, 5)),
        film_distractors,
    ),
    'tempo': one.Task(TEMPI, one.SEEN_PAIRS, one.UNSEEN_PAIRS, film_tempo),
}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command line; the first argument is the task."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], add_help=False
    )
    parser.add_argument('task', choices=TASKS)
    args, rest = parser.parse_known_args(argv)
    out = Path(f'data/shapes_{args.task}')
    one.main(f'Write the shapes of {args.task}.', out, TASKS[args.task], rest)


if __name__ == '__main__':
    main()
