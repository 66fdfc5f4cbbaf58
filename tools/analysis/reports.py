"""What the scripts of this folder share to report figures: tables and plots."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Optional


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Make a Markdown table. Floats have two digits after the point."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(map(_cell, line))} |' for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:,.2f}'
    return f'{value:,}' if isinstance(value, int) else str(value)


def standard_error(values: Sequence[float]) -> Optional[float]:
    """Estimate the standard error of the mean, from two values or more."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def draw_runs(
    panel: Any,
    runs: Mapping[str, Sequence[float]],
    middle: Callable[[Sequence[float]], float] = mean,
    label: str = '',
) -> None:
    """Draw a line through the middles of some runs, with bars for the range.

    Args:
        panel: Matplotlib's axes.
        runs: {value on the x axis: results}.
        middle: how the results of a value are averaged.
        label: name of the line in a legend.
    """
    points = sorted(zip(positions(list(runs)), runs.items()))
    places = [place for place, _ in points]
    results = [figures for _, (_, figures) in points]
    middles = [middle(figures) for figures in results]
    below = [m - min(figures) for m, figures in zip(middles, results)]
    above = [max(figures) - m for m, figures in zip(middles, results)]
    panel.errorbar(places, middles, [below, above], marker='o', capsize=3, label=label)
    panel.set_xticks(places, [value for _, (value, _) in points])
    panel.minorticks_off()
    panel.grid(alpha=0.3)


def positions(values: list[str]) -> list[float]:
    """Return positions: numbers to scale, anything else one after the other."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(i) for i in range(len(values))]
