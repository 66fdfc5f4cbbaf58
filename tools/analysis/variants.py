"""Train and test variants of a config, for tools/analysis/ablation.py and sweep.py.

For every variant and seed, tools/train.py trains a model, and tools/test.py tests its
checkpoint with the best validation score. Finished runs are reused, unfinished ones
resumed, as long as the config says the same.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from mmstop.config import KeyValues, load_config
from mmstop.errors import ConfigError

TOOLS = Path(__file__).parents[1]
RUNNING: defaultdict[Path, Lock] = defaultdict(Lock)  # by folder, which variants share
MAIN = {'acc/top1': 'top-1 accuracy', 'retrieval/t2v/R1': 'text-to-video R@1'}


class Variant(NamedTuple):
    """Changes to a config, as KEY=VALUE, and the name of the folder for its runs."""

    folder: str
    options: Sequence[str]
    trained: bool = True  # False if there is nothing to train; then seeds are equal
    test_options: Sequence[str] = ()  # further changes, for testing only


def add_run_arguments(parser: argparse.ArgumentParser, work_dir: Path) -> None:
    """Add the arguments that :func:`measure_all` uses."""
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


def measure_all(
    args: argparse.Namespace,
    variants: Mapping[str, Variant],
    finish: Callable[[str, int, dict], Any] = lambda *run: None,
) -> dict[str, list[float]]:
    """Train and test all variants: {name: result of each seed, in %}.

    Args:
        args: arguments, including those of :func:`add_run_arguments`.
        variants: {name: variant}.
        finish: receives name, seed and metrics of each run as soon as it is done.

    Raises:
        ConfigError: ``--jobs`` is invalid, or a test does not report the metric.
        RuntimeError: training or testing failed.
    """
    if args.jobs < 1:
        raise ConfigError(f'--jobs {args.jobs}: it must be at least 1')
    finishing = Lock()

    def run_one(name: str, seed: int) -> float:
        metrics = measure(args, variants[name], seed)
        with finishing:
            finish(name, seed, metrics)
        return percent(args.metric) * metrics[args.metric]

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            (name, seed): pool.submit(run_one, name, seed)
            for seed in args.seeds
            for name, variant in variants.items()
            if variant.trained or seed == args.seeds[0]
        }
        results: dict[str, list[float]] = {name: [] for name in variants}
        for (name, _), future in futures.items():
            results[name].append(future.result())
    return results


def main_figure(metrics: Mapping[str, float]) -> float:
    """Return a run's top-1 accuracy or text-to-video R@1, in %."""
    metric = next(metric for metric in MAIN if metric in metrics)
    return percent(metric) * metrics[metric]


def percent(metric: str) -> int:
    """Return the factor that turns a metric into percent; MMAction2 uses fractions."""
    return 100 if metric.startswith('acc/') else 1


def measure(
    args: argparse.Namespace, variant: Variant, seed: int, test: str = ''
) -> dict[str, float]:
    """Train and test a variant with one seed; return the metrics on the test split.

    Args:
        test: a short name for ``args.test_options``, unique among the variant's tests.

    Raises:
        ConfigError: the runs in the folder are of another config; the test does not
            report the metric.
        RuntimeError: training or testing failed.
    """
    work_dir = args.work_dir / Path(args.config).stem / f'{variant.folder}-seed{seed}'
    work_dir.mkdir(parents=True, exist_ok=True)
    check_same_config(work_dir, args.config, variant.options)
    test_options = [*args.test_options, *variant.test_options]
    suffix = re.sub(
        r'[^\w.=-]+', '_', ' '.join(['', *([test] if test else test_options)])
    )
    result = work_dir / f'result{suffix}.json'
    with RUNNING[work_dir]:
        if not result.exists():
            checkpoint = trained(args, variant, seed, work_dir)
            differing = [*variant.options, *test_options]
            tested = ['--work-dir', str(work_dir / 'test')]
            tested += ['--cfg-options', *differing] if differing else []
            run(args, work_dir, 'test.py', args.config, checkpoint, *tested)
            log = max((work_dir / 'test').glob('*/*.json'), key=os.path.getmtime)
            result.write_text(log.read_text())
    metrics = json.loads(result.read_text())
    if args.metric not in metrics:
        raise ConfigError(f'--metric {args.metric}: {result} has {", ".join(metrics)}')
    value = f'{args.metric} {metrics[args.metric]:.4f}'
    what = ', '.join(filter(None, [test, *variant.test_options]))
    where = f'{variant.folder}, seed {seed}{what and ", "}{what}'
    print(f'{where}: {value}', file=sys.stderr, flush=True)
    return metrics


def trained(
    args: argparse.Namespace, variant: Variant, seed: int, work_dir: Path
) -> str:
    """Train a variant unless that is done; return its best checkpoint, or 'none'."""
    if not variant.trained:
        return 'none'
    if not any(work_dir.glob('result*.json')):  # of another test
        changed = ['--cfg-options', *variant.options] if variant.options else []
        common = [*changed, '--seed', str(seed), '--work-dir', str(work_dir)]
        run(args, work_dir, 'train.py', args.config, '--resume', *common)
    (best,) = work_dir.glob('best_*.pth')
    return str(best)


def check_same_config(work_dir: Path, config: str, options: Sequence[str]) -> None:
    """Keep the whole config in the folder, or compare it with the one kept there.

    Raises:
        ConfigError: it differs.
    """
    if not Path(config).exists():  # finished runs can still be reported
        return
    cfg = load_config(config, parse_options(options)).to_dict()
    text = json.dumps(cfg, indent=1, sort_keys=True, default=str)
    kept = work_dir / 'config.json'
    if not kept.exists():
        kept.write_text(text)
    elif kept.read_text() != text:
        pairs = zip(kept.read_text().splitlines(), text.splitlines())
        old, new = next((a.strip(' ,'), b.strip(' ,')) for a, b in pairs if a != b)
        raise ConfigError(
            f'{work_dir} has a run of an earlier {config}, with {old} instead of '
            f'{new}; remove the folder, or name another with --work-dir'
        )


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE pairs as --cfg-options does."""
    parser = argparse.ArgumentParser()
    parser.add_argument('options', nargs='*', action=KeyValues)
    return parser.parse_args(options).options or {}


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a run to keep, without the loading times."""
    return {name: round(value, 6) for name, value in metrics.items() if '/' in name}


def add_to_json(path: Path, keys: Sequence[str], value: Any) -> None:
    """Put a value into a JSON file, under these nested keys; the file stays whole."""
    found = json.loads(path.read_text()) if path.exists() else {}
    place = found
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')
    part.replace(path)


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
