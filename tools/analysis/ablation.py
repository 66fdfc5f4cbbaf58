"""Reproduce the paper's Table 4 for a STOP config: each prompter on and off.

    python tools/analysis/ablation.py configs/stop_moving_shapes.py
    python tools/analysis/ablation.py configs/stop_moving_shapes_retrieval.py \\
        --metric retrieval/t2v/R1
    python tools/analysis/ablation.py configs/stop_moving_shapes.py --rows both \\
        --vary num_spatial=2 num_spatial=12 depth=1 --json docs/ablations.json
    python tools/analysis/ablation.py configs/stop_moving_shapes.py --rows both \\
        --test-merging clip.merge=4 'clip.merge=16 merge_frames=3' --cost merging.png

tools/analysis/variants.py trains and tests each row with every seed. With ``--json``,
all metrics of a run are added to a file as soon as it is done;
tools/analysis/ablation_report.py turns the file into tables. With ``--cost``, a picture
shows the metric against the multiply-adds of the video tower, counted on noise.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Optional

import contestants
from matplotlib.figure import Figure
from reports import table
from variants import (
    Variant,
    add_run_arguments,
    add_to_json,
    figures,
    measure_all,
    parse_options,
)

from mmstop.config import load_config
from mmstop.errors import ConfigError

BACKBONE = 'model.backbone.'
OTHER_MERGING = 'default_hooks.checkpoint.other_merging=True'
ONE_RATE = 'optim_wrapper.paramwise_cfg=None'  # P^s learns as fast as everything else
ROWS = {  # name -> changes to the config
    'neither': (f'{BACKBONE}num_spatial=0', f'{BACKBONE}temporal_scale=0'),
    'spatial only': (f'{BACKBONE}temporal_scale=0',),
    'temporal only': (f'{BACKBONE}num_spatial=0',),
    'both': (),
    'spatial only, one rate': (ONE_RATE, f'{BACKBONE}temporal_scale=0'),
    'both, one rate': (ONE_RATE,),
    'both, one rate, strength 0.3': (ONE_RATE, f'{BACKBONE}strength=0.3'),
    'both, one rate, strength 0.6': (ONE_RATE, f'{BACKBONE}strength=0.6'),
    'both, one rate, strength 1': (ONE_RATE, f'{BACKBONE}strength=1'),
    'both, hard selection': (f'{BACKBONE}selection=hard',),
    'both, random frozen video tower': (f'{BACKBONE}clip.weights=None',),
    'both, merged patches': (f'{BACKBONE}clip.merge=4',),
    'both, prompts at the input': (f'{BACKBONE}depth=1',),
    'both, prompts at two blocks': (f'{BACKBONE}depth=2',),
    "both, Figure 2's prompters": (f'{BACKBONE}prompter=figure',),
}


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument(
        '--vary',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='add a row for each of these arguments of the backbone, or of several: '
        "'depth=1 clip.merge=4'",
    )
    parser.add_argument(
        '--test-merging',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help="add a row for each of these, which test the runs of 'both' with other "
        "merging: 'clip.merge=8 merge_frames=3'",
    )
    parser.add_argument('--cost', type=Path, help='picture to draw')
    parser.add_argument('--json', type=Path, help='add the results to this file')
    add_run_arguments(parser, Path('work_dirs/ablation'))
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    rows = {row: ROWS[row] for row in args.rows}
    rows |= {
        f'both, {options}': tuple(f'{BACKBONE}{option}' for option in options.split())
        for options in args.vary
    }
    variants = {
        row: Variant(
            folder=re.sub('[^a-zA-Z0-9.]+', '-', row),
            options=options,
            trained=row != 'neither',
        )
        for row, options in rows.items()
    }
    for options in args.test_merging:
        changed = [f'{BACKBONE}{option}' for option in options.split()]
        variants[f'both, tested with {options}'] = Variant(
            'both', ROWS['both'], test_options=[OTHER_MERGING, *changed]
        )

    def finish(row: str, seed: int, metrics: dict[str, float]) -> None:
        if args.json:
            name = ' '.join([Path(args.config).stem, *args.test_options])
            add_to_json(args.json, [name, row, str(seed)], figures(metrics))

    try:
        gmacs = (
            {row: cost(args.config, variants[row]) for row in variants}
            if args.cost
            else {}
        )
        results = measure_all(args, variants, finish)
    except (ConfigError, RuntimeError) as error:  # RuntimeError: a run failed
        print(f'error: {error}', file=sys.stderr)
        return 2
    head = [args.config, f'{args.metric}, mean', f'seeds {args.seeds}']
    lines = [
        [row, f'{mean(values):.1f}', ', '.join(f'{value:.1f}' for value in values)]
        for row, values in results.items()
    ]
    print(table(head, lines))
    if args.cost:
        draw(gmacs, results, args.metric).savefig(args.cost, dpi=150)
    return 0


def cost(config: str, variant: Variant) -> float:
    """Count the multiply-adds of a tested video tower, in 10^9 per video."""
    cfg = load_config(config, parse_options([*variant.options, *variant.test_options]))
    tower, frames = cfg.model.backbone.to_dict(), cfg.get('num_frames', 12)
    setup = contestants.Setup(contestants.arch_of(tower), frames, batch=1)
    return contestants.count_macs(contestants.Contestant(tower, setup)) / 1e9


def draw(
    gmacs: dict[str, float], results: dict[str, list[float]], metric: str
) -> Figure:
    """Draw the metric of each row, mean and range over the seeds, against its cost."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    panel: Any = figure.subplots()
    for row in sorted(gmacs, key=gmacs.__getitem__):
        values = results[row]
        bars = [[mean(values) - min(values)], [max(values) - mean(values)]]
        panel.errorbar(gmacs[row], mean(values), bars, fmt='o', capsize=3, label=row)
    panel.set(xlabel='GMACs per video', ylabel=metric)
    figure.legend(loc='outside lower center', ncols=2, fontsize='small')
    return figure


if __name__ == '__main__':
    sys.exit(main())
