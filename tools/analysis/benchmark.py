"""Measure the cost of prompting compared with open_clip's plain frozen tower.

    python tools/analysis/benchmark.py --methods stop-joint stop-frame --memory
    python tools/analysis/benchmark.py configs/stop_ssv2.py --methods clip
    python tools/analysis/benchmark.py --sweep frames batch --batch 1 --plot sweep.png

All towers take turns in one process, on the same random videos and with random weights.
Speed depends on neither, except through the number of STOP's temporal prompts, which is
reported. A training step is the forward pass, the backward pass and AdamW's update of
the video tower alone; a tower with nothing to train passes the gradient to its input.
Ratios are relative to open_clip's tower in the same round. Every column is a median.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import matplotlib.style
import numpy as np
import torch
from contestants import (
    DEFAULT_ARCH,
    METHODS,
    REFERENCE,
    Setup,
    arch_of,
    measure,
    with_arch,
)
from matplotlib.figure import Figure
from measuring import positive
from reports import draw_runs, table

from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.errors import ConfigError
from mmstop.towers.weights import resolve_arch

SWEEPS: dict[str, list] = {
    'frames': [4, 8, 16, 32, 64],
    'batch': [1, 4, 16],
    'arch': [DEFAULT_ARCH, 'ViT-B-16-quickgelu', 'ViT-L-14-quickgelu'],
}
DRAWN = ('forward_ms', 'step_ms', 'forward_ratio', 'step_ratio')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', nargs='?', help='a config whose video tower is measured too')
    add('--methods', nargs='+', choices=list(METHODS), help='all if no config is given')
    add('--arch', help=f"open_clip's name or a JSON file; {DEFAULT_ARCH}")
    add('--frames', type=positive, help="the config's, or 12")
    add('--batch', type=positive, help="the config's, or 2")
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--threads', type=positive, default=torch.get_num_threads(), help='of the CPU')
    add('--repeats', type=positive, default=10, help='rounds')
    add('--memory', action='store_true', help='peaks, each in its own process')
    add('--sweep', nargs='+', choices=list(SWEEPS), default=[])
    add('--out', type=Path, help='JSON to write')
    add('--plot', type=Path, help='picture of a sweep to write')
    args = parser.parse_args(argv)
    if args.plot and not args.sweep:
        parser.error('--plot draws a sweep; add --sweep')
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        run(args)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Measure, print, write and draw.

    Raises:
        ConfigError: an argument or the config is invalid.
    """
    torch.set_num_threads(args.threads)
    towers, base = choose(args)
    points = [
        (axis, base._replace(**{axis: value}))
        for axis in args.sweep
        for value in SWEEPS[axis]
    ]
    found: list[dict] = []
    for axis, setup in points or [('', base)]:
        rows = measure(towers, setup, args.repeats, args.memory)
        print(f'\n{setup}, {args.threads} threads\n{summary(rows)}', flush=True)
        found += [{'axis': axis, **setup._asdict(), **row} for row in rows]
        if args.out:  # now, so that a later failure loses nothing
            report = {
                'torch': torch.__version__,
                'threads': args.threads,
                'rows': found,
            }
            args.out.write_text(json.dumps(report, indent=1) + '\n')
    if args.plot:
        plot(found).savefig(args.plot, dpi=100)


# --- What to measure ----------------------------------------------------------------


def choose(args: argparse.Namespace) -> tuple[dict[str, dict], Setup]:
    """Return the towers' configs, the reference first, and the size."""
    names = args.methods or ([] if args.config else METHODS)
    towers = {name: METHODS[name] for name in (REFERENCE, *names)}
    cfg: dict = {}
    arch = args.arch or DEFAULT_ARCH
    if args.config:
        cfg = load_config(args.config)
        check_config(cfg, [])
        if 'backbone' not in (cfg.get('model') or {}):
            raise ConfigError(f'{args.config} has no model.backbone to measure')
        tower = towers[Path(args.config).stem] = cfg.model.backbone.to_dict()
        with_arch(tower, arch)  # refuse it now, not after others were built
        arch = args.arch or arch_of(tower)
    resolve_arch(arch)
    loader = cfg.get('train_dataloader') or {}
    frames = args.frames or cfg.get('num_frames', 12)
    batch = args.batch or loader.get('batch_size', 2)
    return towers, Setup(arch, frames, batch, args.device, args.dtype)


# --- Reporting ----------------------------------------------------------------------


def summary(rows: list[dict]) -> str:
    """Make a table of one size."""
    medians = [
        [float(np.median(v)) if isinstance(v, list) else v for v in row.values()]
        for row in rows
    ]
    return table(list(rows[0]), medians)


def plot(rows: list[dict]) -> Figure:
    """Draw the times and ratios of a sweep, with a row for every axis."""
    axes = list(dict.fromkeys(row['axis'] for row in rows))
    names = list(dict.fromkeys(row['tower'] for row in rows))
    with matplotlib.style.context('tableau-colorblind10'):
        figure = Figure(figsize=(16, 4 * len(axes)), layout='constrained')
        grid = figure.subplots(len(axes), len(DRAWN), squeeze=False)
    for (axis, key), panel in zip(((a, k) for a in axes for k in DRAWN), grid.flat):
        panel.set_xscale('linear' if axis == 'arch' else 'log')
        panel.set(xlabel=axis, title=key.replace('_', ', '))
        for name in names:
            chosen = (r for r in rows if (r['axis'], r['tower']) == (axis, name))
            runs = {str(row[axis]): row[key] for row in chosen}
            draw_runs(panel, runs, np.median, name)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize='small')
    return figure


if __name__ == '__main__':
    sys.exit(main())
