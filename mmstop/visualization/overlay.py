"""Marks on frames: outlined patches and heat maps."""

import numpy as np
from matplotlib import colormaps

__all__ = ['heat_map', 'outline_patches']

FRAME_HEIGHT = 168  # pixels; smaller frames are enlarged by a whole factor
OUTLINE, EDGE = 3, 1  # pixels: a ring inside the patch, and a dark one inside that
CHOSEN = (230, 159, 0)  # orange; distinct from the map even for colour-blind readers
COLOUR_MAP = 'viridis'
OPACITY = 0.65  # of the map over the frame, which is grey to add no hue


def outline_patches(frames: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Outline patches on enlarged frames.

    Args:
        frames: (T, H, W, 3), uint8, RGB.
        region: the patches to outline, (T, rows, columns), bool.
    Returns:
        (T, f H, f W, 3), uint8, with f >= 1 so that small frames become legible.
    """
    out = _enlarge(frames)
    height, width = _patch_size(out, region)
    y, x = np.arange(height)[:, None], np.arange(width)
    depth = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x))
    depth = np.tile(depth, region.shape[1:])  # pixels from the border of the patch
    inside = _to_pixels(region, height, width)
    out[inside & (depth < OUTLINE)] = CHOSEN
    out[inside & (depth >= OUTLINE) & (depth < OUTLINE + EDGE)] = 0
    return out


def heat_map(frames: np.ndarray, values: np.ndarray, most: float) -> np.ndarray:
    """Lay a map of the patches' values over enlarged frames.

    Args:
        frames: (T, H, W, 3), uint8, RGB.
        values: (T, rows, columns), not negative.
        most: the value shown in the last colour, as are all above it; positive.
    Returns:
        (T, f H, f W, 3), uint8, as large as :func:`outline_patches` makes them.
    """
    out = _enlarge(frames)
    grey = out.mean(-1, keepdims=True)
    colours = 255 * colormaps[COLOUR_MAP](np.clip(values / most, 0, 1))[..., :3]
    colours = _to_pixels(colours, *_patch_size(out, values))
    return (OPACITY * colours + (1 - OPACITY) * grey).round().astype(np.uint8)


def _enlarge(frames: np.ndarray) -> np.ndarray:
    factor = max(1, round(FRAME_HEIGHT / frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _patch_size(frames: np.ndarray, patches: np.ndarray) -> tuple[int, int]:
    return (
        frames.shape[1] // patches.shape[1],
        frames.shape[2] // patches.shape[2],
    )


def _to_pixels(patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """Give every pixel its patch's value: (T, rows, columns, ...)."""
    return patches.repeat(height, axis=1).repeat(width, axis=2)
