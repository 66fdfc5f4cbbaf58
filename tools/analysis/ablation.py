"""Reproduce the paper's Table 4 for a STOP config: each prompter on and off.

    python tools/analysis/ablation.py configs/stop_moving_shapes.py
    python tools/analysis/ablation.py configs/stop_moving_shapes_retrieval.py \\
        --metric retrieval/t2v/R1
    python tools/analysis/ablation.py configs/stop_moving_shapes.py --rows both \\
        --vary num_spatial=2 num_spatial=12 depth=1 --json docs/ablations.json

For every row and seed, tools/train.py trains a model, and tools/test.py tests its
checkpoint with the best validation score. Finished runs are reused, unfinished ones
resumed. With ``--json``, all metrics of a run are added to a file as soon as it is
done; tools/analysis/ablation_report.py turns the file into tables.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from threading import Lock
from typing import Optional

from mmstop.engine.checks import ConfigError

TOOLS = Path(__file__).parents[1]
ROWS = {  # name -> changes to the config
    'neither': ('num_spatial=0', 'temporal_scale=0'),
    'spatial only': ('temporal_scale=0',),
    'temporal only': ('num_spatial=0',),
    'both': (),
    'both, hard selection': ('selection=hard',),
    'both, random frozen video tower': ('clip.weights=None',),
    'both, merged patches': ('clip.merge=4',),
    'both, prompts at the input': ('depth=1',),
    'both, prompts at two blocks': ('depth=2',),
    'both, prompts at every block': ('depth=None',),
    "both, Figure 2's prompters": ('prompter=figure',),
    'both, bounded spatial prompts': ('strength=0.3',),
}


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument(
        '--vary',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='add a row for each of these arguments of the backbone',
    )
    parser.add_argument('--json', type=Path, help='add the results to this file')
    add_run_arguments(parser, Path('work_dirs/ablation'))
    return parser.parse_args(argv)


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: Path) -> None:
    """Add the arguments that :func:`measure` uses."""
    add = parser.add_argument
    add('config')
    add('--seeds', nargs='+', type=int, default=[0, 1, 2])
    add('--jobs', type=int, default=1, help='runs at a time')
    add('--metric', default='acc/top1')
    add(
        '--test-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='change the config for testing only, to test the same runs differently',
    )
    add('--work-dir', type=Path, default=work_dir)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    rows = {row: ROWS[row] for row in args.rows}
    rows |= {f'both, {option}': (option,) for option in args.vary}
    adding = Lock()

    def run_one(row: str, seed: int) -> float:
        name = re.sub('[^a-zA-Z0-9.]+', '-', row)
        options = [f'model.backbone.{option}' for option in rows[row]]
        metrics = measure(args, name, options, seed, trained=row != 'neither')
        if args.json:
            with adding:
                add_result(args, row, seed, metrics)
        return metrics[args.metric]

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            (row, seed): pool.submit(run_one, row, seed)
            for seed in args.seeds
            for row in rows
            if row != 'neither' or seed == args.seeds[0]  # it has no seed
        }
        results = {key: future.result() for key, future in futures.items()}
    print(f'| {args.config} | {args.metric}, mean | seeds {args.seeds} |')
    print('| --- | --- | --- |')
    for row in rows:
        values = [
            percent(args.metric) * v for (name, _), v in results.items() if name == row
        ]
        each = ', '.join(f'{value:.1f}' for value in values)
        print(f'| {row} | {mean(values):.1f} | {each} |')


def add_result(
    args: argparse.Namespace, row: str, seed: int, metrics: dict[str, float]
) -> None:
    """Add a run to ``args.json``: config -> row -> seed -> metrics of the test."""
    found = json.loads(args.json.read_text()) if args.json.exists() else {}
    name = ' '.join([Path(args.config).stem, *args.test_options])
    found.setdefault(name, {}).setdefault(row, {})[str(seed)] = {
        metric: round(value, 6)
        for metric, value in metrics.items()
        if '/' in metric  # leave out the loading times
    }
    part = args.json.with_suffix('.part')
    part.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')
    part.replace(args.json)


def percent(metric: str) -> int:
    """Return the factor that turns a metric into percent; MMAction2 uses fractions."""
    return 100 if metric.startswith('acc/') else 1


def measure(
    args: argparse.Namespace,
    name: str,
    options: Sequence[str],
    seed: int,
    trained: bool = True,
) -> dict[str, float]:
    """Train and test a variant with one seed; return the metrics on the test split.

    Args:
        args: arguments, including those of :func:`add_run_arguments`.
        name: name of the variant, for its folder.
        options: the variant's changes to the config, as KEY=VALUE.
        trained: False if there is nothing to train.

    Raises:
        ConfigError: the test does not report the metric.
        RuntimeError: training or testing failed.
    """
    work_dir = args.work_dir / Path(args.config).stem / f'{name}-seed{seed}'
    suffix = re.sub(r'[^\w.=-]+', '_', ' '.join(['', *args.test_options]))
    result = work_dir / f'result{suffix}.json'
    if not result.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        changed = ['--cfg-options', *options] if options else []
        checkpoint = 'none'
        if trained:
            common = [*changed, '--seed', str(seed), '--work-dir', str(work_dir)]
            run(args, work_dir, 'train.py', args.config, '--resume', *common)
            checkpoint = str(best_checkpoint(work_dir))
        differing = [*options, *args.test_options]
        tested = ['--work-dir', str(work_dir / 'test')]
        tested += ['--cfg-options', *differing] if differing else []
        run(args, work_dir, 'test.py', args.config, checkpoint, *tested)
        log = max((work_dir / 'test').glob('*/*.json'), key=os.path.getmtime)
        result.write_text(log.read_text())
    metrics = json.loads(result.read_text())
    if args.metric not in metrics:
        raise ConfigError(f'--metric {args.metric}: {result} has {", ".join(metrics)}')
    value = metrics[args.metric]
    print(
        f'{name}, seed {seed}: {args.metric} {value:.4f}', file=sys.stderr, flush=True
    )
    return metrics


def run(args: argparse.Namespace, work_dir: Path, tool: str, *arguments: str) -> None:
    """Run a tool with its share of the cores; its output goes to ``work_dir``."""
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    log = work_dir / f'{Path(tool).stem}.out'
    with log.open('a') as out:
        command = [sys.executable, str(TOOLS / tool), *arguments]
        code = subprocess.call(command, stdout=out, stderr=out, env=environment)
    if code:
        raise RuntimeError(f'{" ".join(command)} failed; see {log}')


def best_checkpoint(work_dir: Path) -> Path:
    (path,) = work_dir.glob('best_*.pth')
    return path


if __name__ == '__main__':
    main()
