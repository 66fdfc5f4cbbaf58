"""Train and test the methods of the paper's tables, each with the same small tuning.

    python tools/analysis/compare.py table1 --data moving_shapes --jobs 2 \\
        --rates 1e-3 3e-3 1e-2
    python tools/analysis/compare.py table1 --data shapes_tempo --rates-of moving_shapes
    python tools/analysis/compare.py table2                       # on MSR-VTT
    python tools/analysis/compare.py table1 --methods tempme stop --data ssv2
    python tools/analysis/compare.py table1 --protocol few_shot --data moving_shapes \\
        --methods stop vpt clip --shots 2 4 8 16
    python tools/analysis/compare.py costs --methods tempme unipt

``table1`` is recognition, ``table2`` and ``table3`` are retrieval, and ``table4`` turns
STOP's prompters on and off. Each uses its data sets that are there, or those of
``--data``. With ``--rates``, every method tries all of these learning rates with the
first seed, and keeps the one that is best on the validation split. With
``--rates-of``, it takes the one that it has kept on another data set; without either,
its config's. tools/analysis/variants.py does the runs, so finished ones are reused.

``--protocol`` trains and tests recognition as other papers do (docs/protocols.md), by
the definitions of tools/analysis/protocols.py, with the rates of the configs.

``costs`` measures the video towers of all MSR-VTT configs as benchmark.py does.

Everything is added to a JSON file as soon as it is known. Beside the file stand the
page, the CSV and the plot that tools/analysis/compare_report.py makes of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Optional

import compare_report
import contestants
from compare_report import ROOT, TARGETS
from compare_rows import Row, data_sets_of, find_config, methods_with_config, rows_of
from get_params import build, count
from measuring import positive
from protocols import PROTOCOLS, SPLITS, Plan, Setting, plans
from variants import Variant, add_to_json, figures, measure

from mmstop.config import load_config
from mmstop.errors import ConfigError

RATE = 'optim_wrapper.optimizer.lr'
COSTS = 'costs'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('table', choices=[*TARGETS['tables'], COSTS])
    add('--methods', nargs='+', help="names of configs; the table's rows by default")
    add('--data', nargs='+', help='other data sets, such as moving_shapes')
    add('--configs', type=Path, default=ROOT / 'configs', help='folder of the configs')
    add('--protocol', choices=PROTOCOLS, default='full')
    add('--shots', nargs='+', type=positive, default=[2, 4, 8, 16], help='for few_shot')
    add(
        '--splits',
        nargs='+',
        type=int,
        choices=SPLITS,
        default=[1],
        help='train and test on each of these splits, for full',
    )
    add('--lists', default='shots', help='folder of the lists of make_shots.py')
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    rates = parser.add_mutually_exclusive_group().add_argument
    rates('--rates', nargs='+', default=[], help='learning rates to choose from')
    rates('--rates-of', metavar='DATA_SET', help='use those chosen there, in --json')
    add('--jobs', type=positive, default=1, help='methods at a time')
    add('--repeats', type=positive, default=5, help='rounds of timing, for costs')
    add('--batch', type=positive, default=2, help='videos at a time, for costs')
    add('--work-dir', type=Path, default=Path('work_dirs/compare'))
    add('--json', type=Path, default=ROOT / 'docs' / 'comparison.json')
    args = parser.parse_args(argv)
    args.test_options = []  # for measure
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        if args.table == COSTS:
            measure_costs(args)
        else:
            run_tables(args)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: a run failed
        print(f'error: {error}', file=sys.stderr)
        return 2
    compare_report.write(args.json)
    return 0


# --- Runs ---------------------------------------------------------------------------


def run_tables(args: argparse.Namespace) -> None:
    """Run all lines on all data sets, some at a time."""
    jobs = [(d, row) for d in data_sets_of(args) for row in rows_of(args, d)]
    usual = args.protocol == 'full' and args.splits == [1]
    if not usual:
        check_protocol(args, {row.metric for _, row in jobs})
    place = ['results'] if usual else ['protocols', protocol_name(args)]
    planned = {} if usual else {job: plan_row(args, *job) for job in jobs}
    chosen = {}
    if args.rates_of:
        chosen = {row.name: chosen_rate(args, d, row) for d, row in jobs if row.trained}
    adding = Lock()

    def run(data_set: str, row: Row) -> None:
        if usual:
            found = run_row(args, row, chosen.get(row.name))
        else:
            found = run_plans(args, row, planned[data_set, row])
        with adding:
            add_to_json(args.json, [*place, data_set, row.name], found)

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(run, *job) for job in jobs]
    for future in futures:
        future.result()


def run_row(args: argparse.Namespace, row: Row, rate: Optional[str]) -> dict:
    """Tune a method unless its rate is known, then train and test with every seed."""
    own, found = begin(args, row)
    variant = Variant(row.name.replace(' ', '-'), row.options, row.trained)
    seeds = args.seeds
    if not row.trained:
        seeds = seeds[:1]
    elif args.rates:
        found['tuning'] = {rate: tune(own, variant, rate) for rate in args.rates}
        rate = max(found['tuning'], key=found['tuning'].get)
    if rate is not None:
        found['rate'] = rate
        variant = with_rate(variant, rate)
    if args.rates_of and row.trained:
        found['rate_of'] = args.rates_of
    found['seeds'] = {str(seed): figures(measure(own, variant, seed)) for seed in seeds}
    return found


def chosen_rate(args: argparse.Namespace, data_set: str, row: Row) -> str:
    """Return the learning rate that a method has kept on ``--rates-of``.

    Raises:
        ConfigError: it has not chosen one there.
    """
    known = json.loads(args.json.read_text()) if args.json.exists() else {}
    found = known.get('results', {}).get(args.rates_of, {}).get(row.name, {})
    if 'tuning' not in found or data_set == args.rates_of:
        raise ConfigError(
            f'--rates-of {args.rates_of}: {row.name} must choose its rate there first, '
            f'with --rates; {args.json} would then have it'
        )
    return found['rate']


def begin(args: argparse.Namespace, row: Row) -> tuple[argparse.Namespace, dict]:
    """Return the arguments that measure a line, and {'trained': its parameters}."""
    config = str(row.config)
    own = {**vars(args), 'config': config, 'metric': row.metric}
    trained = count(build(load_config(config)))['trainable'] if row.trained else 0
    return argparse.Namespace(**own), {'trained': trained}


def check_protocol(args: argparse.Namespace, metrics: set[str]) -> None:
    """Check that the other options fit the protocol.

    Raises:
        ConfigError: one does not.
    """
    if args.rates or args.rates_of:
        name = '--rates' if args.rates else '--rates-of'
        raise ConfigError(f'{name}: only for --protocol full on one split')
    if args.splits != [1] and args.protocol != 'full':
        raise ConfigError(f'--splits: --protocol {args.protocol} has its own splits')
    if not all(metric.startswith('acc/') for metric in metrics):
        raise ConfigError(
            f'--protocol, --splits: {args.table} is retrieval, which has neither'
        )


def protocol_name(args: argparse.Namespace) -> str:
    """Name the protocol, and where its lists come from if they are not drawn here."""
    drawn = args.protocol in ('few_shot', 'base_to_novel')
    other = drawn and args.lists != 'shots'
    return f'{args.protocol}, {args.lists}' if other else args.protocol


def plan_row(
    args: argparse.Namespace, data_set: str, row: Row
) -> list[tuple[int, Plan]]:
    """Plan all runs of a line: (seed, plan).

    Raises:
        ConfigError: a list is missing.
    """
    cfg = load_config(str(row.config))
    seeds = args.seeds if row.trained else args.seeds[:1]
    options = row.trained, args.shots, args.splits, args.lists, args.configs
    return [
        (seed, plan)
        for seed in seeds
        for plan in plans(args.protocol, Setting(cfg, data_set, seed, *options))
    ]


def run_plans(
    args: argparse.Namespace, row: Row, planned: Sequence[tuple[int, Plan]]
) -> dict:
    """Train and test a method by a protocol: {'tests': {test: {seed: metrics}}}."""
    own, found = begin(args, row)
    found['tests'] = {}
    method = row.name.replace(' ', '-')
    for seed, plan in planned:
        folder = '-'.join(filter(None, [method, plan.folder]))
        variant = Variant(folder, [*row.options, *plan.options], row.trained)
        for test, options in plan.tests.items():
            own.test_options = options
            metrics = figures(measure(own, variant, seed, test))
            found['tests'].setdefault(test, {})[str(seed)] = metrics
    return found


def with_rate(variant: Variant, rate: str) -> Variant:
    return Variant(
        f'{variant.folder}-lr{rate}',
        [*variant.options, f'{RATE}={rate}'],
        variant.trained,
    )


def tune(args: argparse.Namespace, variant: Variant, rate: str) -> float:
    """Return the best score on the validation split with a learning rate.

    It is that of the epoch whose checkpoint the run keeps, with the first seed.
    """
    variant, seed = with_rate(variant, rate), args.seeds[0]
    measure(args, variant, seed)
    folder = args.work_dir / Path(args.config).stem / f'{variant.folder}-seed{seed}'
    lines = [
        json.loads(line)
        for log in folder.glob('*/vis_data/scalars.json')
        for line in log.read_text().splitlines()
    ]
    scores = [line[args.metric] for line in lines if args.metric in line]
    if not scores:
        raise RuntimeError(
            f'{folder} has no {args.metric} of the validation split; remove the folder '
            f'to run it again'
        )
    return max(scores)


# --- Costs --------------------------------------------------------------------------


def measure_costs(args: argparse.Namespace) -> None:
    """Measure each video tower in turns with open_clip's."""
    known = json.loads(args.json.read_text()) if args.json.exists() else {}
    data_set = (args.data or ['msrvtt'])[0]
    for method in args.methods or methods_with_config(args.configs, data_set):
        if method in known.get(COSTS, {}):
            continue
        config = str(find_config(args.configs, method, data_set))
        found = cost_of(config, args.repeats, args.batch)
        print(f'{method}: {found}', file=sys.stderr, flush=True)
        add_to_json(args.json, [COSTS, method], found)


def cost_of(config: str, repeats: int, batch: int) -> dict[str, float]:
    """Return the medians of a config's video tower, and all that the config trains."""
    cfg = load_config(config)
    tower = cfg.model.backbone.to_dict()
    setup = contestants.Setup(cfg.clip_vit.arch, cfg.num_frames, batch)
    reference = contestants.METHODS[contestants.REFERENCE]
    towers = {contestants.REFERENCE: reference, 'method': tower}
    plain, row = contestants.measure(towers, setup, repeats, memory=True)
    return {
        'trained': count(build(cfg))['trainable'],
        'gmacs': round(row['gmacs_per_video'], 3),
        'plain_gmacs': round(plain['gmacs_per_video'], 3),
        'forward_ratio': round(median(row['forward_ratio']), 3),
        'step_ratio': round(median(row['step_ratio']), 3),
        'forward_mb': round(row['forward_mb']),
        'step_mb': round(row['step_mb']),
    }


if __name__ == '__main__':
    sys.exit(main())
