"""Which configs and data sets tools/analysis/compare.py compares."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from ablation import ROWS
from compare_report import TARGETS
from protocols import ZERO_SHOT

from mmstop.config import load_config
from mmstop.errors import ConfigError


class Row(NamedTuple):
    """One line of a table: a config, changed by some options."""

    name: str
    config: Path
    options: tuple[str, ...]
    metric: str
    trained: bool


def find_config(folder: Path, method: str, data_set: str) -> Path:
    """Find METHOD_DATASET.py in the folder or a folder of it.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(folder.rglob(f'{method}_{data_set}.py'))
    if not found:
        known = methods_with_config(folder, data_set)
        raise ConfigError(
            f'{folder} has no {method}_{data_set}.py; for {data_set} it has '
            f'{", ".join(known) or "nothing"}'
        )
    return found[0]


def methods_with_config(folder: Path, data_set: str) -> list[str]:
    """Name the methods that have a config for a data set in the folder or below."""
    paths = folder.rglob(f'*_{data_set}.py')
    return sorted(path.stem.removesuffix(f'_{data_set}') for path in paths)


def rows_of(args: argparse.Namespace, data_set: str) -> list[Row]:
    """Return the lines of a table on a data set."""
    table = TARGETS['tables'][args.table]
    names = args.methods or list(table['rows'])
    rows = []
    for name in names:
        options: tuple[str, ...] = ()
        method = name
        if args.table == 'table4':
            method, options = 'stop', ROWS[name]
        path = find_config(args.configs, method, data_set)
        trained = bool(load_config(str(path)).get('train_dataloader'))
        rows.append(
            Row(
                name,
                path,
                options,
                table['metrics'][0],
                trained and name != 'neither',
            )
        )
    return rows


def data_sets_of(args: argparse.Namespace) -> list[str]:
    """Return the data sets to use.

    Raises:
        ConfigError: none of those of the table is there.
    """
    table = TARGETS['tables'][args.table]
    retrieves = table['metrics'][0].startswith('retrieval/')
    if args.protocol == 'zero_shot' and not args.data:
        return [next(iter(ZERO_SHOT))]
    if args.data:
        return [
            'moving_shapes_retrieval' if retrieves and d == 'moving_shapes' else d
            for d in args.data
        ]
    here = [d for d in table['data'] if is_here(args.configs, d)]
    for data_set in {*table['data']} - {*here}:
        print(f'{data_set} is not there and left out', file=sys.stderr)
    if not here:
        raise ConfigError(
            f'{args.table}: none of {", ".join(table["data"])} is there; prepare one '
            f'(docs/data.md), or use --data moving_shapes'
        )
    return here


def is_here(configs: Path, data_set: str) -> bool:
    """Tell whether the annotations for testing on a data set exist."""
    cfg = load_config(str(find_config(configs, 'stop', data_set)))
    dataset = cfg.test_dataloader.dataset
    return Path(dataset.get('data_root') or '', dataset.ann_file).exists()
