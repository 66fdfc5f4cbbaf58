"""Draw on pixels: outlined patches, heat maps, and lines of text above frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    'draw_strip',
    'font_of',
    'heat_map',
    'outline_patches',
    'shorten',
    'write_lines',
]

FRAME_HEIGHT = 168  # pixels; smaller frames are enlarged by a whole factor
STRIP_HEIGHT = 160  # the same for frames under lines of text
OUTLINE, EDGE = 3, 1  # pixels: a ring inside the patch, and a dark one inside that
CHOSEN = (230, 159, 0)  # orange; distinct from the map even for colour-blind readers
COLOUR_MAP = 'viridis'
OPACITY = 0.65  # of the map over the frame, which is grey to add no hue
LINE_HEIGHT, FONT_SIZE, MARGIN = 28, 18, 8  # pixels
MIN_WIDTH = 480  # pixels, so that the text of a single small frame can be read
# White text is legible on each; 'correct' and 'wrong' are also written out.
RIGHT, WRONG, NEUTRAL = (0, 120, 70), (190, 30, 45), (90, 90, 90)


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
    from matplotlib import colormaps  # not earlier, see __init__.py

    grey = out.mean(-1, keepdims=True)
    colours = 255 * colormaps[COLOUR_MAP](np.clip(values / most, 0, 1))[..., :3]
    colours = _to_pixels(colours, *_patch_size(out, values))
    return (OPACITY * colours + (1 - OPACITY) * grey).round().astype(np.uint8)


def _enlarge(frames: np.ndarray, height: int = FRAME_HEIGHT) -> np.ndarray:
    factor = max(1, round(height / frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _patch_size(frames: np.ndarray, patches: np.ndarray) -> tuple[int, int]:
    return (
        frames.shape[1] // patches.shape[1],
        frames.shape[2] // patches.shape[2],
    )


def _to_pixels(patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """Give every pixel its patch's value: (T, rows, columns, ...)."""
    return patches.repeat(height, axis=1).repeat(width, axis=2)


def draw_strip(
    frames: np.ndarray, header: Sequence[str], colour: tuple[int, int, int]
) -> Image.Image:
    """Lay frames side by side under a header.

    Args:
        frames: RGB, (T, H, W, 3), uint8.
        header: lines of text, cut to the width of the strip.
        colour: RGB of the header's background.
    """
    frames = _enlarge(frames, STRIP_HEIGHT)
    strip = Image.fromarray(np.concatenate(list(frames), axis=1))
    above = write_lines(header, max(strip.width, MIN_WIDTH), colour)
    picture = Image.new('RGB', (above.width, above.height + strip.height), colour)
    picture.paste(above, (0, 0))
    picture.paste(strip, (0, above.height))
    return picture


def write_lines(
    lines: Sequence[str], width: int, colour: tuple[int, int, int]
) -> Image.Image:
    """Write white lines of text on a colour, cut to a width in pixels."""
    picture = Image.new('RGB', (width, LINE_HEIGHT * len(lines) + MARGIN), colour)
    draw = ImageDraw.Draw(picture)
    font = font_of('DejaVuSans')
    for i, line in enumerate(lines):
        line = shorten(line, font, width - 2 * MARGIN)
        draw.text((MARGIN, MARGIN // 2 + i * LINE_HEIGHT), line, 'white', font)
    return picture


def font_of(name: str) -> ImageFont.FreeTypeFont:
    """Load one of the fonts that come with Matplotlib."""
    import matplotlib  # not earlier, see __init__.py

    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', f'{name}.ttf')
    return ImageFont.truetype(str(path), FONT_SIZE)


def shorten(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a line in the middle, so that its score is kept."""
    if font.getlength(line) <= width:
        return line
    for kept in range(len(line) - 1, 1, -1):
        short = f'{line[: kept // 2]}…{line[len(line) - (kept - kept // 2) :]}'
        if font.getlength(short) <= width:
            return short
    return ''
