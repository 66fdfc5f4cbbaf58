"""Report the protocols that compare.py ran: tables, a CSV file and few-shot curves."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import harmonic_mean, mean, stdev
from typing import Any, NamedTuple, Optional

from matplotlib.figure import Figure
from reports import draw_runs, table
from variants import percent

METRICS = {'acc/top1': 'top-1', 'acc/top5': 'top-5', 'acc/mean1': 'mean class'}
FEW = 'few_shot'
ABOUT = """\
## Protocols

[Protocols](protocols.md) says what was run. Figures are top-1 accuracies in %, means ±
standard deviations: over the seeds, or over the splits, of the means over the seeds.
The harmonic mean of base and novel classes is that of the two means, as published.
`{sheet}` also has top-5 and mean class accuracy.
"""
Tests = Mapping[str, Mapping[str, Mapping[str, float]]]  # test -> seed -> metrics


class Figures(NamedTuple):
    """A mean in %, and the standard deviation of what it is the mean of."""

    mean: float
    deviation: Optional[float]
    number: int
    over: str  # seeds or splits

    def __str__(self) -> str:
        rest = '' if self.deviation is None else f' ± {self.deviation:.1f}'
        return f'{self.mean:.1f}{rest}'


def sections(protocols: Mapping[str, Any], path: Path) -> list[str]:
    """Return the parts of a page, and write CSV and plot beside the results.

    Args:
        protocols: protocol -> data set -> method -> what compare.py found.
        path: the file of the results.
    """
    if not protocols:
        return []
    sheet = path.with_name(f'{path.stem}_protocols.csv')
    with sheet.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['protocol', 'data set', 'method', 'test', 'metric', 'mean',
                         'deviation', 'number', 'over'])  # fmt: skip
        writer.writerows(lines_of(protocols))
    parts = [ABOUT.format(sheet=sheet.name)]
    for protocol, data_sets in protocols.items():
        for data_set, methods in data_sets.items():
            parts.append(f'### {protocol} on {data_set}\n\n{table_of(methods)}\n')
    curves = {
        f'{data_set}, {protocol}': methods
        for protocol, data_sets in protocols.items()
        if protocol.startswith(FEW)
        for data_set, methods in data_sets.items()
    }
    if curves:
        picture = path.with_name(f'{path.stem}_few_shot.png')
        plot(curves).savefig(picture, dpi=100)
        parts.append(f'### Few-shot curves\n\n![accuracy by shots]({picture.name})\n')
    return parts


def lines_of(protocols: Mapping[str, Any]) -> Iterator[list]:
    for protocol, data_sets in protocols.items():
        for data_set, methods in data_sets.items():
            for method, result in methods.items():
                for metric, name in METRICS.items():
                    for test, found in columns(result['tests'], metric).items():
                        yield [protocol, data_set, method, test, name, *found]


def table_of(methods: Mapping[str, Any]) -> str:
    """Make a table with a line per method, and a column per test or data set."""
    found = {m: columns(result['tests'], 'acc/top1') for m, result in methods.items()}
    names = list(dict.fromkeys(test for tests in found.values() for test in tests))
    names.sort(key=lambda name: [int(n) for n in re.findall(r'^\d+', name)])
    rows = [
        [m, result['trained'], *(str(found[m].get(name, '–')) for name in names)]
        for m, result in methods.items()
    ]
    return table(['method', 'trained', *names], rows)


def columns(tests: Tests, metric: str) -> dict[str, Figures]:
    """Average a metric over the seeds, and over the splits of each data set."""
    groups: dict[str, dict[str, list[float]]] = {}
    for test, seeds in tests.items():
        values = [percent(metric) * s[metric] for s in seeds.values() if metric in s]
        if values:
            name = re.sub(r' ?split \d$', '', test) or 'mean of splits'
            groups.setdefault(name, {})[test] = values
    found = {name: average(list(group.values())) for name, group in groups.items()}
    if {'base', 'novel'} <= found.keys():
        base, novel = found['base'], found['novel']
        both = harmonic_mean([base.mean, novel.mean])
        found['harmonic mean'] = Figures(both, None, base.number, base.over)
    return found


def average(splits: Sequence[Sequence[float]]) -> Figures:
    """Average the results of each seed, on one split or on several."""
    several = len(splits) > 1
    values = [mean(split) for split in splits] if several else splits[0]
    deviation = stdev(values) if len(values) > 1 else None
    return Figures(
        mean(values), deviation, len(values), 'splits' if several else 'seeds'
    )


def plot(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw a panel per data set: accuracy over K, with bars for the range of seeds."""
    figure = Figure(figsize=(6 * len(curves), 4.5), layout='constrained')
    panels: Any = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (title, methods) in zip(panels, curves.items()):
        panel.set_xscale('log', base=2)
        for method, result in methods.items():
            runs = {
                test.removesuffix(' shots'): [
                    100 * s['acc/top1'] for s in seeds.values()
                ]
                for test, seeds in result['tests'].items()
            }
            if zero := runs.pop('0', None):
                panel.axhline(
                    zero[0], color='grey', linestyle='--', label=f'{method}, zero-shot'
                )
            if runs:
                draw_runs(panel, runs, label=method)
        panel.set(title=title, xlabel='videos a class', ylabel='top-1, %')
        panel.legend()
    return figure
