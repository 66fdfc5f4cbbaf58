"""Vary hyper-parameters one at a time, as in the paper's Figure 4.

    python tools/analysis/sweep.py configs/stop_moving_shapes.py --jobs 2 \\
        --vary model.backbone.num_spatial 0 3 6 9 \\
        --vary model.backbone.temporal_scale 0 6 12 18 \\
        --vary model.backbone.alpha 0 0.2 0.4 0.6 \\
        --vary model.backbone.beta 0 2 4 8

tools/analysis/variants.py trains and tests each value with every seed. All other
options keep the config's values. ``sweep.csv`` has a line per run, and ``sweep.png`` a
panel per option, with the mean and the range over the seeds.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Optional
from urllib.parse import quote

from matplotlib.figure import Figure
from reports import draw_runs, table
from variants import Variant, add_run_arguments, measure_all

from mmstop.config import load_config
from mmstop.errors import ConfigError

Results = dict[str, dict[str, list[float]]]  # option -> value -> one result per seed


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--vary',
        nargs='+',
        action='append',
        required=True,
        metavar=('KEY', 'VALUE'),
        help='an option as in --cfg-options, and its values; may be repeated',
    )
    add_run_arguments(parser, Path('work_dirs/sweep'))
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        check(args)
        results = run(args)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: a run failed
        print(f'error: {error}', file=sys.stderr)
        return 2
    folder = args.work_dir / Path(args.config).stem
    write(folder / 'sweep.csv', results, args)
    plot(results, args.metric).savefig(folder / 'sweep.png', dpi=150)
    print(summary(results, args))
    print(f'wrote sweep.csv and sweep.png to {folder}')
    return 0


def check(args: argparse.Namespace) -> None:
    """Check options before the first of many runs.

    Raises:
        ConfigError: an option has no values, is varied twice or is not in the config.
    """
    keys = [key for key, *_ in args.vary]
    for key, *values in args.vary:
        if not values:
            raise ConfigError(f'--vary {key}: give its values after it')
        if len({*values}) < len(values) or keys.count(key) > 1:
            raise ConfigError(f'--vary {key}: an option or a value is given twice')
        load_config(args.config, {key: values[0]})


def run(args: argparse.Namespace) -> Results:
    """Measure every value with every seed."""
    options = [f'{key}={value}' for key, *values in args.vary for value in values]
    found = measure_all(args, {o: Variant(folder_of(o), [o]) for o in options})
    return {
        key: {value: found[f'{key}={value}'] for value in values}
        for key, *values in args.vary
    }


def folder_of(option: str) -> str:
    """Return the folder's name for KEY=VALUE, unique for each value."""
    return quote(option, safe='=')


# --- Writing ------------------------------------------------------------------------


def write(path: Path, results: Results, args: argparse.Namespace) -> None:
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['option', 'value', 'seed', args.metric])
        for key, values in results.items():
            for value, figures in values.items():
                for seed, figure in zip(args.seeds, figures):
                    writer.writerow([key, value, seed, f'{figure:.4f}'])


def summary(results: Results, args: argparse.Namespace) -> str:
    rows = [
        (
            f'{key}={value}',
            f'{mean(figures):.1f}',
            f'{min(figures):.1f} to {max(figures):.1f}',
        )
        for key, values in results.items()
        for value, figures in values.items()
    ]
    span = f'range over seeds {args.seeds}'
    return table([args.config, f'{args.metric}, mean', span], rows)


def plot(results: Results, metric: str) -> Figure:
    """Draw a panel per option: the mean over the seeds, with bars for the range."""
    figure = Figure(figsize=(4 * len(results), 3.5), layout='constrained')
    panels: Any = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for panel, (key, values) in zip(panels, results.items()):
        draw_runs(panel, values)
        panel.set_xlabel(key.removeprefix('model.backbone.'))
    panels[0].set_ylabel(metric)
    return figure


if __name__ == '__main__':
    sys.exit(main())
