"""Pictures of what STOP chose: prompted patches on the frames, prompts in the gaps."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmstop.methods import STOPTrace

__all__ = ['plot_trace']

CHOSEN = '#E69F00'  # orange and blue are told apart by colour-blind eyes too
COUNTED = '#0072B2'


def plot_trace(frames: np.ndarray, trace: STOPTrace, video: int, title: str) -> Figure:
    """Draw one video as a film strip with what was prompted.

    Above, the frames with the patches of the region r (Eq. 6) outlined; below, between
    them, one bar a gap: its number of temporal prompts N^t (Eq. 11).

    Args:
        frames: (T, H, W, 3), uint8, RGB.
        trace: of a batch that holds the video.
        video: which of the batch, in [0, B).
        title: written above.
    """
    T, height, width = frames.shape[:3]
    N = trace.region.shape[-1]
    rows = round((N * height / width) ** 0.5)
    cell = height / rows
    figure, (strip, bars) = plt.subplots(
        2, 1, figsize=(1.6 * T, 2.8), height_ratios=[2, 1], layout='constrained'
    )
    strip.imshow(np.concatenate(list(frames), axis=1))
    for t, patch in trace.region[video].nonzero().tolist():
        row, column = divmod(patch, N // rows)
        corner = (t * width + column * cell - 0.5, row * cell - 0.5)
        strip.add_patch(Rectangle(corner, cell, cell, fill=False, color=CHOSEN, lw=1.2))
    for t in range(1, T):
        strip.axvline(t * width - 0.5, color='white', lw=1)
    strip.set_axis_off()
    strip.set_title(title, fontsize=9, loc='left')
    gaps = np.arange(1, T) * width - 0.5
    counts = trace.num_prompts[video].tolist()
    drawn = bars.bar(gaps, counts, width=0.3 * width, color=COUNTED)
    bars.bar_label(drawn, fontsize=8)
    bars.set(xlim=strip.get_xlim(), ylim=(0, max([*counts, 1]) * 1.3), xticks=[])
    bars.set_ylabel('prompts', fontsize=8)
    bars.tick_params(labelsize=7)
    bars.spines[['top', 'right']].set_visible(False)
    return figure
