"""Make docs/ablations.md and its plot from the results of ablation.py in a JSON file.

    python tools/analysis/ablation_report.py docs/ablations.json

The page has one table per config, in the order of ablation.py's rows, with the mean
over the seeds, its standard error, and every seed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Optional

import sweep
from ablation import ROWS
from papers import DATA_SETS
from reports import standard_error, table
from variants import MAIN, main_figure

VARIED = 'both, '  # how the rows of --vary begin

HEAD = """\
# Ablations

Every figure is on the test split, in %, from the checkpoint that was best on the
validation split. `python tools/analysis/ablation_report.py {file}` writes this page
from the results that `tools/analysis/ablation.py CONFIG --json {file}` added;
[Results](results.md) describes the data sets.
"""

# config -> row -> seed -> metrics
Results = dict[str, dict[str, dict[str, dict[str, float]]]]


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', type=Path, help='JSON file of ablation.py')
    args = parser.parse_args(argv)
    try:
        results = json.loads(args.results.read_text())
    except (OSError, ValueError) as error:
        remedy = 'tools/analysis/ablation.py CONFIG --json writes such a file'
        print(f'error: {args.results}: {error}; {remedy}', file=sys.stderr)
        return 2
    page, picture = (args.results.with_suffix(end) for end in ('.md', '.png'))
    panels = varied(results)
    if panels:
        sweep.plot(panels, '%').savefig(picture, dpi=120)
    text = document(results, args.results.as_posix(), picture if panels else None)
    page.write_text(text)
    print(f'{page}: {sum(map(len, results.values()))} rows')
    return 0


def document(results: Results, file: str, picture: Optional[Path]) -> str:
    """Write the page: one section per config."""
    parts = [HEAD.format(file=file)]
    for config in sorted(results):
        name, *options = config.split(' ')
        title = ', '.join([DATA_SETS[name.split('_', 1)[1]], *options])
        parts.append(f'## {title}\n\n{section(name, results[config])}\n')
    if picture:
        parts.append(f'## Hyper-parameters\n\n![Accuracy by value]({picture.name})\n')
    return '\n'.join(parts)


def section(config: str, rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Make the Markdown table of one config."""
    metric = metric_of(rows)
    head = [f'`{config}`, {MAIN[metric]}', 'mean', 'standard error', 'seeds']
    lines = []
    for row in sorted(rows, key=place):
        values = values_of(rows[row])
        seeds = ', '.join(f'{value:.1f}' for value in values)
        error = standard_error(values)
        spread = '–' if error is None else f'{error:.1f}'
        lines.append([row, f'{mean(values):.1f}', spread, seeds])
    return table(head, lines)


def place(row: str) -> tuple[int, str, float]:
    """Return where a row stands: in ablation.py's order, then by option and value."""
    if row in ROWS:
        return list(ROWS).index(row), '', 0
    key, _, value = row.rpartition('=')
    try:
        return len(ROWS), key, float(value)
    except ValueError:
        return len(ROWS), row, 0


def metric_of(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the metric to report, for recognition or for retrieval."""
    (found,) = {m for r in rows.values() for s in r.values() for m in s} & set(MAIN)
    return found


def values_of(seeds: dict[str, dict[str, float]]) -> list[float]:
    """Return the figures of the runs in %, in ascending order of seeds."""
    return [main_figure(seeds[seed]) for seed in sorted(seeds, key=int)]


def varied(results: Results) -> sweep.Results:
    """Return the rows that vary one option as a sweep, if it has several values."""
    found: sweep.Results = {}
    for config, rows in sorted(results.items()):
        for row, seeds in rows.items():
            key, _, value = row.removeprefix(VARIED).partition('=')
            if row.startswith(VARIED) and value and ' ' not in value:
                values = found.setdefault(f'{config}: {key}', {})
                values[value] = values_of(seeds)
    return {key: values for key, values in found.items() if len(values) > 1}


if __name__ == '__main__':
    sys.exit(main())
