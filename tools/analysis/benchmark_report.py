"""Save and show the results of tools/analysis/benchmark.py: JSON, tables and a plot."""

import argparse
import json
import platform
from pathlib import Path
from typing import Any, Optional

import open_clip
import torch
from benchmark_model import WORKS
from matplotlib.figure import Figure

import mmstop
from mmstop.engine.checks import ConfigError

# Okabe and Ito's palette for colour-blind readers; markers differ too.
COLOURS = ['#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9']
MARKERS = 'osD^vPX'
LABELS = {'frames': 'frames', 'batch': 'videos per batch', 'arch': 'architecture'}
TITLES = {'forward': 'forward', 'step': 'training step'}


def read_report(path: str) -> dict:
    if not Path(path).is_file():
        raise ConfigError(f'{path}: there is no such file')
    try:
        report = json.loads(Path(path).read_text())
        return {**report, 'points': report['points']}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path} was not written by this tool with --out; give an architecture '
            f'with --arch'
        ) from error


def write_report(report: dict, path: Optional[Path]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1))


def environment(args: argparse.Namespace) -> dict:
    """Return where and how the results were measured."""
    cpu = platform.processor()
    if Path('/proc/cpuinfo').is_file():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.split(': ')[1] for line in lines if line.startswith('model name')]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if args.device == 'cuda' else None
    modules = {'torch': torch, 'open_clip': open_clip, 'mmstop': mmstop}
    return {
        'versions': {name: m.__version__ for name, m in modules.items()},
        'machine': {'cpu': cpu, 'gpu': gpu, 'threads': args.threads},
        'settings': {
            k: getattr(args, k) for k in ('device', 'dtype', 'warmup', 'repeats')
        },
    }


# --- Tables -------------------------------------------------------------------------


def point_table(point: dict, report: dict) -> str:
    """Format a point: times first, then sizes."""
    machine, settings = report['machine'], report['settings']
    contestants = point['contestants']
    width = max(map(len, contestants))
    lines = [
        '',
        f'{point["arch"]}, batch {point["batch"]}, {point["frames"]} frames, '
        f'{settings["dtype"]} on {machine["gpu"] or machine["cpu"]}, '
        f'{machine["threads"]} threads; medians of {settings["repeats"]} rounds',
        ' ' * width + f'{"forward":>17}{"training step":>38}',
        ' ' * width + 2 * f'{"ms":>10} {"(IQR)":>7} {"ratio":>6} {"videos/s":>9}',
    ]
    for name, result in contestants.items():
        lines.append(f'{name:<{width}}' + ''.join(_speed(result[w]) for w in WORKS))
    lines += [
        f'{" " * width}{"keys a block":>14} {"padding":>8} {"prompts":>8} '
        f'{"GMACs/video":>12} {"trained":>11} {"MB forward, step":>16}'
    ]
    for name, result in contestants.items():
        lines.append(f'{name:<{width}}{_size(result)}')
    return '\n'.join(lines)


def _speed(work: dict) -> str:
    low, high = work['quartiles_ms']
    return (
        f'{work["median_ms"]:10.1f} {f"({high - low:.1f})":>7} {work["ratio"]:6.2f} '
        f'{work["videos_per_s"]:9.2f}'
    )


def _size(result: dict) -> str:
    tokens, prompts = result['tokens'], result['temporal_prompts']
    mean = '-' if prompts is None else f'{sum(prompts) / len(prompts):.1f}'
    memory = result['memory_mb']
    peaks = ', '.join(f'{memory[w]:.1f}' for w in WORKS) if memory else '-'
    return (
        f'{tokens["mean_keys"]:8.1f}/{tokens["per"]} {tokens["padding"]:8.1%} '
        f'{mean:>8} {result["gmacs_per_video"]:12.2f} '
        f'{result["trainable_parameters"]:11,} {peaks:>16}'
    )


def pipeline_table(pipeline: dict) -> str:
    """Format data loading, compared with the model's speed if that was measured."""
    needed: Optional[float] = pipeline['needed']
    lines = [
        '',
        f'Training data of {pipeline["config"]}, batch {pipeline["batch"]}',
        'decoder        workers  videos/s            IQR',
    ]
    for row in pipeline['rows']:
        low, high = row['quartiles']
        line = (
            f'{row["decoder"]:<14} {row["workers"]:>7} {row["videos_per_s"]:9.1f}'
            f' {f"{low:.1f} to {high:.1f}":>14}'
        )
        if needed:
            waits = 'the model waits' if row['videos_per_s'] < needed else 'data wait'
            line += f'   {row["videos_per_s"] / needed:.2f} of the need: {waits}'
        lines.append(line)
    if needed:
        lines.append(f'The model trains {needed:.1f} videos/s: the need')
    return '\n'.join(lines)


# --- The picture --------------------------------------------------------------------


def plot(report: dict) -> Figure:
    """Draw a row for every swept axis: forward, training step, and their ratios.

    Args:
        report: output of ``benchmark.py --sweep --out``.

    Raises:
        ConfigError: the report holds no sweep.
    """
    axes = list(dict.fromkeys(p['axis'] for p in report['points'] if p['axis']))
    if not axes:
        raise ConfigError('the JSON holds no sweep to draw; measure it with --sweep')
    figure = Figure(figsize=(13, 4 * len(axes) + 0.6), layout='constrained')
    panels: Any = figure.subplots(len(axes), 3, squeeze=False)
    for axis, (forward, step, ratio) in zip(axes, panels):
        points = [p for p in report['points'] if p['axis'] == axis]
        draw_times(forward, points, axis, 'forward')
        draw_times(step, points, axis, 'step')
        draw_ratios(ratio, points, axis)
    machine, settings = report['machine'], report['settings']
    figure.suptitle(
        f'{machine["gpu"] or machine["cpu"]}, {machine["threads"]} threads, '
        f'{settings["dtype"]}, medians of {settings["repeats"]} rounds and quartiles',
        fontsize='medium',
    )
    return figure


def draw_times(panel: Any, points: list[dict], axis: str, work: str) -> None:
    for i, name in enumerate(points[0]['contestants']):
        results = [point['contestants'][name][work] for point in points]
        medians = [result['median_ms'] for result in results]
        spread = [
            [m - r['quartiles_ms'][0] for m, r in zip(medians, results)],
            [r['quartiles_ms'][1] - m for m, r in zip(medians, results)],
        ]
        style = dict(_style(i), capsize=3, label=name)
        panel.errorbar(_places(points, axis), medians, spread, **style)
    panel.set_yscale('log')
    panel.set(title=f'{TITLES[work]}, {_fixed(points[0], axis)}', ylabel='ms')
    _finish(panel, points, axis)


def draw_ratios(panel: Any, points: list[dict], axis: str) -> None:
    reference, *names = points[0]['contestants']
    for i, name in enumerate(names, start=1):
        for work, dashes in (('forward', ':'), ('step', '-')):
            ratios = [point['contestants'][name][work]['ratio'] for point in points]
            style = dict(_style(i), linestyle=dashes, label=f'{name}, {TITLES[work]}')
            panel.plot(_places(points, axis), ratios, **style)
    panel.axhline(1, color=COLOURS[0], linewidth=0.8)
    panel.set(title=f'times {reference}', ylabel='ratio')
    panel.set_ylim(bottom=0)
    _finish(panel, points, axis)


def _places(points: list[dict], axis: str) -> list:
    """Return x positions: numbers to scale, names side by side."""
    return list(range(len(points))) if axis == 'arch' else [p[axis] for p in points]


def _fixed(point: dict, axis: str) -> str:
    return ', '.join(
        _short(point[key]) if key == 'arch' else f'{key} {point[key]}'
        for key in LABELS
        if key != axis
    )


def _short(arch: str) -> str:
    return arch.split('/')[-1].removesuffix('.json').removesuffix('-quickgelu')


def _style(i: int) -> dict:
    return dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])


def _finish(panel: Any, points: list[dict], axis: str) -> None:
    if axis != 'arch':
        panel.set_xscale('log', base=2)
    labels = [_short(str(point[axis])) for point in points]
    panel.set_xticks(_places(points, axis), labels)
    panel.minorticks_off()
    panel.set_xlabel(LABELS[axis])
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')
