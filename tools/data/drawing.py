"""Draw a shape that moves on a torus, or a still of it."""

from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 56  # pixels, both sides
NUM_FRAMES = 24
SHAPES = ('circle', 'square', 'triangle', 'cross', 'ring', 'diamond')
COLOURS = {
    'red': (215, 35, 40),
    'green': (40, 165, 60),
    'blue': (45, 75, 225),
    'yellow': (240, 225, 45),
    'cyan': (50, 215, 225),
    'magenta': (215, 50, 200),
    'orange': (245, 135, 25),
    'white': (242, 242, 242),
}
D = 0.5**0.5
MOTIONS = {  # name -> unit vector (x, y), y pointing down; in label order
    'moving to the right': (1.0, 0.0),
    'moving to the upper right': (D, -D),
    'moving up': (0.0, -1.0),
    'moving to the upper left': (-D, -D),
    'moving to the left': (-1.0, 0.0),
    'moving to the lower left': (-D, D),
    'moving down': (0.0, 1.0),
    'moving to the lower right': (D, D),
    'standing still': (0.0, 0.0),
}
CLASSES = tuple(MOTIONS)

Pair = tuple[int, int]  # (shape index, colour index)


@dataclass(frozen=True)
class Scene:
    """A video without its noise; lengths in pixels, colours in [0, 255]."""

    shape: int  # index into SHAPES
    motion: int  # index into CLASSES
    radius: float
    start: tuple[float, float]  # centre (x, y) in the first frame, in [0, SIZE)
    travel: float  # length of the path from the first frame to the last
    rgb: np.ndarray  # the shape's colour, (3,)
    background: np.ndarray  # (SIZE, SIZE, 3)


def draw_scene(
    rng: np.random.Generator, pair: Pair, motion: int = len(CLASSES) - 1
) -> Scene:
    """Sample what the caption leaves open: size, position, speed, shade and texture."""
    shape, colour = pair
    rgb = np.array(list(COLOURS.values())[colour]) + rng.uniform(-12, 12, 3)
    mean = rng.uniform(60, 110) + rng.uniform(-12, 12, 3)
    coarse = mean + rng.normal(0, 14, (4, 4, 3))
    background = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return Scene(
        shape=shape,
        motion=motion,
        radius=rng.uniform(8, 12),
        start=(rng.uniform(0, SIZE), rng.uniform(0, SIZE)),
        travel=rng.uniform(20, 45),  # drawn for all classes, used by moving ones
        rgb=rgb.clip(0, 255),
        background=background,
    )


def centres(scene: Scene, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Return the shape's centres on the torus: (T, 2) as (x, y), in [0, SIZE)."""
    direction = np.array(MOTIONS[CLASSES[scene.motion]])
    steps = np.linspace(0, scene.travel, num_frames)[:, None]
    return (np.array(scene.start) + steps * direction) % SIZE


def outside(shape: int, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Compute the signed distance to a shape's edge in pixels, negative inside."""
    name, ax, ay = SHAPES[shape], abs(x), abs(y)
    if name == 'circle':
        return np.hypot(x, y) - radius
    if name == 'square':
        return np.maximum(ax, ay) - 0.85 * radius
    if name == 'triangle':  # equilateral, upright, enlarged to look as large
        return np.maximum(y, 0.75**0.5 * ax - 0.5 * y) - 0.6 * radius
    if name == 'cross':
        arm = 0.32 * radius
        upright = np.maximum(ax - arm, ay - radius)
        return np.minimum(upright, np.maximum(ax - radius, ay - arm))
    if name == 'ring':
        return abs(np.hypot(x, y) - 0.75 * radius) - 0.25 * radius
    return (ax + ay - 1.15 * radius) * D  # diamond


def render(scene: Scene, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the scene with its shape at (T, 2) positions: (T, SIZE, SIZE, 3), uint8."""
    return add_noise(paint(scene.background.astype(np.float32), scene, places), rng)


def paint(background: np.ndarray, scene: Scene, places: np.ndarray) -> np.ndarray:
    """Draw the scene's shape at positions (T, 2): (T, SIZE, SIZE, 3), float32 RGB.

    The background is float32, with one frame or T frames.
    """
    half, pixel = SIZE / 2, np.arange(SIZE) + 0.5
    x = (pixel - places[:, :1] + half) % SIZE - half  # (T, SIZE), shortest way round
    y = (pixel - places[:, 1:] + half) % SIZE - half
    edge = outside(scene.shape, x[:, None, :], y[:, :, None], scene.radius)
    alpha = (0.5 - edge).clip(0, 1)[..., None].astype(np.float32)  # anti-aliased
    return background + alpha * (scene.rgb.astype(np.float32) - background)


def add_noise(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn float32 frames into noisy uint8 ones."""
    frames += 6 * rng.standard_normal(frames.shape, dtype=np.float32)
    return (frames + 0.5).clip(0, 255).astype(np.uint8)


def render_clip(
    scene: Scene, rng: np.random.Generator, num_frames: int = NUM_FRAMES
) -> np.ndarray:
    """Draw a whole video: (T, SIZE, SIZE, 3) uint8 RGB."""
    return render(scene, centres(scene, num_frames), rng)


def render_frame(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a still of the scene at its start: (SIZE, SIZE, 3) uint8 RGB."""
    return render(scene, np.array([scene.start]), rng)[0]
