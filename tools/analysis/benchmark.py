"""Measure the cost of prompting compared with open_clip's plain frozen tower.

    python tools/analysis/benchmark.py                          # ViT-B/32, built-ins
    python tools/analysis/benchmark.py configs/stop_ssv2.py --batch 2 --memory
    python tools/analysis/benchmark.py --sweep frames=4,8,16 batch=1,4 \\
        --out sweep.json --plot sweep.png
    python tools/analysis/benchmark.py sweep.json --plot sweep.png    # only draws
    python tools/analysis/benchmark.py --pipeline configs/stop_moving_shapes.py
    python tools/analysis/benchmark.py --pipeline              # generated videos

All contestants take turns in one process, on the same random videos and with random
weights. Speed depends on neither, except through the number of STOP's temporal prompts,
which is reported. A training step is the forward pass, the backward pass and AdamW's
update of the video tower alone; a tower with nothing to train passes the gradient to
its input. Ratios are relative to open_clip's tower in the same round. --pipeline
measures data loading separately, and together with a config reports whether data or
model would be the bottleneck. On a CPU, they also compete for the same cores. Without a
config, --pipeline reads clips from generated H.264 videos.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import torch
from benchmark_counts import describe
from benchmark_model import (
    CONTESTANTS,
    DEFAULT_ARCH,
    REFERENCE,
    WORKS,
    Contestant,
    Setup,
    arch_of,
    peak_memory,
    peak_memory_elsewhere,
    summarise,
    time_rounds,
)
from benchmark_pipeline import measure_pipeline
from benchmark_reading import measure_reading, reading_table
from benchmark_report import (
    environment,
    pipeline_table,
    plot,
    point_table,
    read_report,
    write_report,
)
from mmengine.config import Config

from mmstop.engine.checks import ConfigError, check_config, load_config
from mmstop.engine.options import KeyValues
from mmstop.towers.weights import resolve_arch

SWEEPS: dict[str, list] = {
    'frames': [4, 8, 16, 32, 64],
    'batch': [1, 4, 16],
    'arch': ['ViT-B-32-quickgelu', 'ViT-B-16-quickgelu', 'ViT-L-14-quickgelu'],
}
SWEPT = [REFERENCE, 'stop-joint', 'stop-frame']


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('source', nargs='?', help='config, or JSON of an earlier run to show or draw')
    add('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE')
    add('--methods', nargs='+', help=f'of {", ".join(CONTESTANTS)} and the config')
    add('--arch', help=f"open_clip's name or a JSON file; {DEFAULT_ARCH}")
    add('--frames', type=int, help="the config's, or 12")
    add('--batch', type=int, help="the config's, or 2, or 1 in a sweep")
    add('--device', choices=['cpu', 'cuda'], default=default_device())
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--threads', type=int, default=torch.get_num_threads(), help='of the CPU')
    add('--warmup', type=int, default=2, help='rounds before those that count')
    add('--repeats', type=int, default=10, help='rounds that count')
    add('--memory', action='store_true', help='peaks; slow on the CPU, free on GPUs')
    sweeps = 'frames=4,8,16, batch=1,4, arch=A,B; all three if none is given'
    add('--sweep', nargs='*', metavar='AXIS=VALUES', help=sweeps)
    data = "measure this config's data loading, or clip reading if none is given"
    add('--pipeline', nargs='?', const='', metavar='CONFIG', help=data)
    add('--workers', nargs='+', type=int, default=[0, 1, 2], help='data workers')
    add('--num-videos', type=int, default=128, help='videos to load per round')
    add('--out', type=Path, help='JSON to write')
    add('--plot', type=Path, help='picture of a sweep to write')
    return parser.parse_args(argv)


def default_device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    command = ' '.join(sys.argv if argv is None else ['benchmark.py', *argv])
    try:
        run(args, command)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace, command: str) -> None:
    """Measure or read, print, write and draw.

    Raises:
        ConfigError: an argument, a config or a file is invalid.
    """
    if str(args.source).endswith('.json'):
        report = read_report(args.source)
        for point in report['points']:
            print(point_table(point, report))
        if 'pipeline' in report:
            print(pipeline_table(report['pipeline']))
        if 'reading' in report:
            print(reading_table(report['reading']))
    else:
        check_numbers(args)
        report = measure(args, command)
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(report).savefig(args.plot, dpi=150)
        print(f'drew {args.plot}')


def check_numbers(args: argparse.Namespace) -> None:
    least = dict(frames=1, batch=1, threads=1, warmup=0, repeats=1, num_videos=1)
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            option = name.replace('_', '-')
            raise ConfigError(f'--{option} {value}: it must be at least {low}')
    if min(args.workers) < 0:
        raise ConfigError(f'--workers {min(args.workers)}: it must be at least 0')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device cuda: PyTorch finds no GPU; use --device cpu')
    if args.memory and args.device == 'cpu' and sys.platform != 'linux':
        raise ConfigError('--memory on a CPU reads /proc, which only Linux has')
    if args.plot and args.sweep is None:
        raise ConfigError('--plot draws a sweep; add --sweep, or give the JSON of one')


def measure(args: argparse.Namespace, command: str) -> dict:
    """Measure everything requested; print and write results as they come."""
    torch.set_num_threads(args.threads)
    report: dict = {'command': command, **environment(args), 'points': []}
    cfg = read_config(args.source, args.cfg_options) if args.source else None
    pipeline = read_config(args.pipeline, None, ['train']) if args.pipeline else None
    data = args.pipeline is not None
    only_data = data and not (cfg or args.methods or args.sweep is not None)
    for axis, setups in [] if only_data else plan(args, cfg):
        point = measure_point(setups, args)
        report['points'].append({'axis': axis, **point})
        print(point_table(report['points'][-1], report), flush=True)
        write_report(report, args.out)  # so that a later failure loses nothing
    if pipeline:
        report['pipeline'] = measure_pipeline(
            pipeline, args.workers, args.num_videos, args.repeats
        )
        report['pipeline']['needed'] = training_speed(report, args.source)
        print(pipeline_table(report['pipeline']))
        write_report(report, args.out)
    elif data:
        report['reading'] = measure_reading(args.repeats)
        print(reading_table(report['reading']))
        write_report(report, args.out)
    return report


# --- What to measure ----------------------------------------------------------------


def read_config(
    path: str, options: Optional[dict], splits: Sequence[str] = ()
) -> Config:
    cfg = load_config(path, options)
    check_config(cfg, splits)
    return cfg


def plan(args: argparse.Namespace, cfg: Optional[Config]) -> list[tuple]:
    """List the points to measure: [(axis or None, a setup for each contestant)]."""
    backbones, base = dict(CONTESTANTS), sizes(args, cfg)
    if cfg is not None:
        backbones[Path(args.source).stem] = cfg.model.backbone.to_dict()
    names = args.methods or list(backbones)
    if args.sweep is not None and not args.methods:
        names = [*SWEPT, *list(backbones)[len(CONTESTANTS) :]]
    for name in names:
        if name not in backbones:
            raise ConfigError(f'--methods {name}: choose from {", ".join(backbones)}')
    names = [REFERENCE, *(name for name in names if name != REFERENCE)]
    setups = [Setup(name=n, backbone=backbones[n], **base) for n in names]
    if args.sweep is None:
        return [(None, setups)]
    points = [
        (axis, [replace(setup, **{axis: value}) for setup in setups])
        for axis, values in swept(args.sweep).items()
        for value in values
    ]
    for _, (first, *_) in points:
        checked(resolve_arch, first.arch)  # fail now, not after hours
    return points


def sizes(args: argparse.Namespace, cfg: Optional[Config]) -> dict:
    """Return the shared sizes: from the arguments, the config or the defaults."""
    frames, batch, arch = 12, 2 if args.sweep is None else 1, DEFAULT_ARCH
    if cfg is not None:
        backbone = (cfg.get('model') or {}).get('backbone')
        if not isinstance(backbone, dict):
            raise ConfigError(f'{args.source} has no model.backbone to measure')
        arch = checked(arch_of, backbone)
        loader = cfg.get('train_dataloader') or {}
        frames = next(values_of('clip_len', loader.get('dataset')), frames)
        batch = loader.get('batch_size', batch) if args.sweep is None else batch
    return dict(
        arch=args.arch or arch,
        frames=args.frames or frames,
        batch=args.batch or batch,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
    )


def values_of(key: str, node: Any) -> Iterator[Any]:
    """Find all values of a key in a config, in order."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == key)
    if isinstance(node, (dict, list, tuple)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from values_of(key, child)


def swept(given: Sequence[str]) -> dict[str, list]:
    """Read ['frames=4,8', 'arch'] as {'frames': [4, 8], 'arch': [all of them]}."""
    axes = {}
    for text in given or SWEEPS:
        axis, _, values = text.partition('=')
        if axis not in SWEEPS:
            raise ConfigError(f'--sweep {text}: the axes are {", ".join(SWEEPS)}')
        axes[axis] = values.split(',') if values else SWEEPS[axis]
        if axis != 'arch':
            if not all(str(value).isdigit() and int(value) for value in axes[axis]):
                raise ConfigError(f'--sweep {text}: give numbers of at least 1')
            axes[axis] = [int(value) for value in axes[axis]]
    return axes


def checked(function: Any, *arguments: Any) -> Any:
    """Call a function whose ValueError means that the user made a mistake."""
    try:
        return function(*arguments)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


# --- Measuring ----------------------------------------------------------------------


def measure_point(setups: Sequence[Setup], args: argparse.Namespace) -> dict:
    """Measure all contestants at one size."""
    first = setups[0]
    try:
        contestants = {setup.name: checked(Contestant, setup) for setup in setups}
        results = {name: describe(c) for name, c in contestants.items()}
        for setup in setups:
            results[setup.name]['memory_mb'] = memory(contestants[setup.name], args)
        times = time_rounds(contestants, args.warmup, args.repeats)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f'{first.arch} with {first.batch} videos of {first.frames} frames does not '
            f'fit into memory; choose a smaller --batch, fewer --frames or --methods'
        ) from error
    for name, works in times.items():
        for work in WORKS:
            seconds, reference = works[work], times[REFERENCE][work]
            results[name][work] = summarise(seconds, reference, first.batch)
    size = {'arch': first.arch, 'frames': first.frames, 'batch': first.batch}
    return {**size, 'contestants': results}


def memory(contestant: Contestant, args: argparse.Namespace) -> Optional[dict]:
    if args.device == 'cuda':
        return peak_memory(contestant)
    return peak_memory_elsewhere(contestant.setup) if args.memory else None


def training_speed(report: dict, source: Optional[str]) -> Optional[float]:
    """Return the config's training speed in videos per second, if measured."""
    name = Path(source).stem if source else None
    for point in report['points']:
        if point['axis'] is None and name in point['contestants']:
            return point['contestants'][name]['step']['videos_per_s']
    return None


if __name__ == '__main__':
    sys.exit(main())
