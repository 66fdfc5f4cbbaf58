"""Make docs/comparison.md, .csv and .png from the results of compare.py.

    python tools/analysis/compare_report.py docs/comparison.json
    python tools/analysis/compare_report.py docs/comparison.json --overview

There is a table for each data set. Figures are means over the seeds on the test split;
beside them stands what the STOP paper prints, from configs/targets.json. ``--overview``
prints the short table of README.md and docs/speed.md instead.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any, Optional

import protocol_report
from matplotlib.figure import Figure
from papers import DATA_SETS
from reports import standard_error, table
from variants import percent

ROOT = Path(__file__).parents[2]
TARGETS: dict[str, Any] = json.loads((ROOT / 'configs' / 'targets.json').read_text())
NAMES = {'acc/top1': 'top-1', 'acc/top5': 'top-5'} | {
    f'retrieval/{way}/{key}': f'{way} {key}'
    for way in ('t2v', 'v2t')
    for key in ('R1', 'R5', 'R10', 'MnR')
}
COSTS = {
    'gmacs': 'GMACs',
    'forward_ratio': 'forward',
    'step_ratio': 'step',
    'step_mb': 'step, MB',
}
AXES = {  # column -> axis of the plot
    'trained': 'trained parameters',
    'forward': "forward pass, relative to open_clip's",
}
# Slanted labels, as shares of a panel: their distance, height, and lean over height.
LABEL, LENGTH, SLANT = 0.028, 0.3, 0.39
HEAD = """\
# Comparison

`python tools/analysis/compare_report.py docs/{file}` writes this page from the results
that `tools/analysis/compare.py` collects there.
"""
COLUMNS = """\
Figures are means over the seeds on the test split, with the checkpoint that was best on
the validation split; accuracies and recalls in %. In brackets is what the STOP paper
prints, where it is known.

- *trained* counts the parameters of the config that ran, *B/32* those of the method's
  MSR-VTT config, and *paper* is the paper's column, in millions.
- *GMACs*, *forward* and *step* are those of the video tower of the MSR-VTT config, for
  12 frames; both times are relative to open_clip's plain frozen tower in the same run.
- *rate* is the learning rate that was best on the validation split with the first seed,
  out of those under *Rates tried*, or that of the data set named there; – stands for
  the config's own.
"""


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', type=Path, help='JSON file of compare.py')
    parser.add_argument('--overview', action='store_true', help='print a short table')
    args = parser.parse_args(argv)
    if not args.overview:
        return write(args.results)
    found = json.loads(args.results.read_text())
    if not found.get('results'):
        missing = f'{args.results} has no results of compare.py table1 or table2'
        parser.error(f'{missing}; run one with --json {args.results}')
    print(overview(found))


def write(path: Path) -> None:
    """Write page, CSV and plots beside the results."""
    found = json.loads(path.read_text())
    lines = lines_of(found)
    page, sheet, picture = (path.with_suffix(end) for end in ('.md', '.csv', '.png'))
    parts = [HEAD.format(file=path.name)]
    if lines:
        with sheet.open('w', newline='') as file:
            keys = list(dict.fromkeys(key for line in lines for key in line))
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows(lines)
        parts.append(COLUMNS)
    if found.get('costs'):
        parts.append(f'## Costs\n\n{table_of_costs(lines)}\n')
    for data_set, chosen in by_data_set(lines).items():
        parts.append(f'## {data_set}\n\n{table_of(chosen)}\n')
        if tried := table_of_rates(found['results'][data_set]):
            parts.append(f'### Rates tried on {data_set}\n\n{tried}\n')
    if found.get('results'):
        plot(lines).savefig(picture, dpi=100)
        parts.append(
            f'## Accuracy, size and cost\n\n![by size and by cost]({picture.name})\n\n'
            f'Dotted lines link the methods that no other surpasses on both axes.\n'
        )
    parts += protocol_report.sections(found.get('protocols', {}), path)
    page.write_text('\n'.join(parts))
    print(f'wrote {page}')


def lines_of(found: dict) -> list[dict[str, Any]]:
    """Return a line for each data set and method, and for costs without results."""
    lines = [
        line_of(data_set, method, result, found.get('costs', {}).get(method, {}))
        for data_set, methods in found.get('results', {}).items()
        for method, result in methods.items()
    ]
    known = {line['method'] for line in lines}
    return lines + [
        line_of('', method, {}, cost)
        for method, cost in found.get('costs', {}).items()
        if method not in known
    ]


def line_of(data_set: str, method: str, result: dict, cost: dict) -> dict[str, Any]:
    """Return what is known of a method on a data set, by column."""
    seeds = list(result.get('seeds', {}).values())
    line: dict[str, Any] = {
        'data set': data_set,
        'method': method,
        'trained': result.get('trained'),
        'B/32': cost.get('trained'),
        'paper': TARGETS['trained_m'].get(method),
        **{name: cost.get(key) for key, name in COSTS.items()},
        'rate': result.get('rate'),
        'seeds': len(seeds),
    }
    for metric, name in NAMES.items():
        values = [percent(metric) * seed[metric] for seed in seeds if metric in seed]
        if values:
            line[name] = mean(values)
            line[f'{name} error'] = standard_error(values)
            line[f'{name} paper'] = target(data_set, method, metric)
    return line


def target(data_set: str, method: str, metric: str) -> Optional[float]:
    """Return the paper's figure, or None where it is not known."""
    for printed in TARGETS['tables'].values():
        figures = printed['rows'].get(method, {}).get(data_set)
        if figures and metric in printed['metrics']:
            return figures[printed['metrics'].index(metric)]
    return None


def table_of(lines: Sequence[dict[str, Any]]) -> str:
    """Make the Markdown table of one data set."""
    metrics = [name for name in NAMES.values() if any(name in line for line in lines)]
    head = ['method', 'trained', 'B/32', 'paper', *COSTS.values(), 'rate', 'seeds']
    rows = [
        [*(cell(line[key]) for key in head), *(figure(line, m) for m in metrics)]
        for line in sorted(lines, key=lambda line: -line.get(metrics[0], 0))
    ]
    return table([*head, *metrics], rows)


def overview(found: dict) -> str:
    """Make the short Markdown table, in the order of the first data set's metric."""
    sets = by_data_set(lines_of(found))
    metrics = {d: first_metric(lines) for d, lines in sets.items()}
    known = {d: {x['method']: x for x in lines} for d, lines in sets.items()}
    methods = {line['method']: line for lines in sets.values() for line in lines}
    first = next(iter(sets))
    best = {name: line[metrics[first]] for name, line in known[first].items()}
    head = ['method', 'B/32', 'forward', 'step']
    rows = [
        [cell(methods[name][key]) for key in head]
        + [figure(known[d].get(name, {}), metrics[d]) for d in sets]
        for name in sorted(methods, key=lambda name: -best.get(name, -1))
    ]
    titles = [f'{DATA_SETS.get(d, d)}: {metric}' for d, metric in metrics.items()]
    return table(['method', 'trained', 'forward', 'step', *titles], rows)


def by_data_set(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group the lines that have results, in the order of ``lines_of``."""
    groups = groupby(lines, key=lambda line: line['data set'])
    return {name: list(group) for name, group in groups if name}


def first_metric(lines: Sequence[dict[str, Any]]) -> str:
    """Return the metric by which the methods of a data set are compared."""
    return next(name for name in NAMES.values() if name in lines[0])


def table_of_rates(methods: dict[str, dict]) -> str:
    """Make the Markdown table of what each learning rate scored in validation."""
    rows = []
    for method, result in methods.items():
        first = next(iter(result['seeds'].values()))
        factor = percent(next(metric for metric in NAMES if metric in first))
        tuning = result.get('tuning', {})
        tried = sorted(tuning.items(), key=lambda item: float(item[0]))
        scores = ', '.join(f'{rate}: {factor * score:.1f}' for rate, score in tried)
        if 'rate_of' in result:
            scores = f'{result["rate"]}, as on {result["rate_of"]}'
        rows += [[method, scores]] if scores else []
    return table(['method', 'rate: validation, %'], rows) if rows else ''


def table_of_costs(lines: Sequence[dict[str, Any]]) -> str:
    """Make the Markdown table of all methods with costs, the cheapest first."""
    known = {line['method']: line for line in lines if line['B/32'] is not None}
    head = ['method', 'B/32', 'paper', *COSTS.values()]
    ordered = sorted(known.values(), key=lambda line: line['forward'])
    return table(head, [[cell(line[key]) for key in head] for line in ordered])


def cell(value: Any) -> Any:
    return '–' if value is None else value


def figure(line: dict[str, Any], name: str) -> str:
    """Write a mean with its standard error, and the paper's figure in brackets."""
    if name not in line:
        return '–'
    text = f'{line[name]:.1f}'
    if line[f'{name} error'] is not None:
        text += f' ± {line[f"{name} error"]:.1f}'
    printed = line[f'{name} paper']
    return text if printed is None else f'{text} ({printed})'


def plot(lines: Sequence[dict[str, Any]]) -> Figure:
    """Draw the first metric by size and, where measured, by cost, for each data set."""
    sets = by_data_set(lines)
    chosen = [line for line in lines if line['data set']]
    axes = [key for key in AXES if any(line[key] is not None for line in chosen)]
    figure = Figure(figsize=(7 * len(axes), 5 * len(sets)), layout='constrained')
    panels: Any = figure.subplots(len(sets), len(axes), squeeze=False)
    for (data_set, group), row in zip(sets.items(), panels):
        for key, panel in zip(axes, row):
            draw(panel, group, key)
            panel.set_title(data_set)
    return figure


def draw(panel: Any, lines: Sequence[dict[str, Any]], key: str) -> None:
    """Draw the first metric against a column, and link what nothing surpasses."""
    metric = first_metric(lines)
    known = sorted((x for x in lines if x[key] is not None), key=lambda x: x[key])
    points = [(line[key], line[metric]) for line in known]
    for line, point in zip(known, points):
        style = 'C3o' if line['method'] == 'stop' else 'C0o'
        panel.errorbar(*point, line[f'{metric} error'], fmt=style, capsize=3)
    panel.plot(*zip(*front(points)), color='grey', linestyle='dotted', zorder=0)
    if key == 'trained':
        smallest = min((size for size, _ in points if size), default=1)
        panel.set_xscale('symlog', linthresh=smallest)  # zero-shot CLIP trains nothing
    panel.set(ylim=(0, 1.4 * max(y for _, y in points)), yticks=range(0, 101, 20))
    panel.margins(x=0.08)
    panel.autoscale_view()  # now, since labels are placed by it
    to_axes = panel.transData + panel.transAxes.inverted()
    for text, point, place in zip(known, points, apart(to_axes.transform(points))):
        panel.annotate(
            text['method'],
            point,
            place,
            textcoords='axes fraction',
            rotation=60,
            rotation_mode='anchor',
            fontsize=7,
            arrowprops=dict(arrowstyle='-', color='silver', relpos=(0, 0), shrinkB=3),
        )
    panel.set(xlabel=AXES[key], ylabel=f'{metric}, %')
    panel.grid(alpha=0.3)


def apart(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Place slanted labels above points in [0, 1] x [0, 1] so that none meet."""
    feet = [x - SLANT * y for x, y in points]  # where a label's line meets the bottom
    placed: dict[int, float] = {}
    for i in sorted(range(len(points)), key=feet.__getitem__):
        y = points[i][1]
        near = [foot for j, foot in placed.items() if abs(points[j][1] - y) < LENGTH]
        placed[i] = max([feet[i], *(foot + LABEL for foot in near)])
    return [(placed[i] + SLANT * y, y + 0.06) for i, (_, y) in enumerate(points)]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front of (cost, accuracy): no other is cheaper and better."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


if __name__ == '__main__':
    main()
