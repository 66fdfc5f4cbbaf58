"""Show which classes a model confuses.

    python tools/test.py CONFIG CHECKPOINT --dump work_dirs/predictions.pkl
    python tools/analysis/confusion.py CONFIG work_dirs/predictions.pkl \\
        --out-dir work_dirs/confusion

writes ``confusion.png``, with every row in percent of the class's videos, and
``per_class.csv``, with the worst class first, and prints the most confused pairs.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Optional

import mmengine
import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

import mmstop  # noqa: F401  patches and registers before MMAction2 is imported

from mmaction.evaluation import ConfusionMatrix  # isort: skip

from mmstop.classes import load_classes
from mmstop.config import KeyValues, load_config
from mmstop.errors import ConfigError

FEW = 20  # up to this many classes, there is room for numbers
ROOMY, NARROW = 0.5, 0.16  # inches per class, for few and for many
COLUMNS = ['class', 'label', 'videos', 'correct', 'accuracy', 'mostly_taken_for']


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='config of a recognizer, for the class names')
    add('predictions', help='output of tools/test.py --dump')
    add('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE')
    add('--out-dir', type=Path, default=Path('work_dirs/confusion'))
    add('--topk', type=int, default=10, help='number of pairs to print')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options)
        matrix = read_matrix(args.predictions)
        names = class_names(cfg, args.config, len(matrix))
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    args.out_dir.mkdir(parents=True, exist_ok=True)
    plot(matrix, names).savefig(args.out_dir / 'confusion.png', dpi=150)
    write_classes(args.out_dir / 'per_class.csv', matrix, names)
    print_pairs(matrix, names, args.topk)
    print(f'wrote confusion.png and per_class.csv to {args.out_dir}')
    return 0


# --- Reading ------------------------------------------------------------------------


def read_matrix(path: str) -> np.ndarray:
    """Count predictions: (K, K) int64, one row per true class.

    Raises:
        ConfigError: the file does not hold the predictions of a recognizer.
    """
    if not Path(path).is_file():
        raise ConfigError(f'predictions {path!r}: there is no such file')
    remedy = (
        'give the output of tools/test.py --dump for a recognizer with one label per '
        'video'
    )
    try:
        samples: Any = mmengine.load(path)
        fit = bool(samples) and all(
            sample['gt_label'].numel() == 1
            and sample['gt_label'] < len(sample['pred_score'])
            for sample in samples
        )
    except (UnpicklingError, EOFError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f'{path} holds no predictions ({error!r}); {remedy}'
        ) from error
    if not fit:
        raise ConfigError(f'{path} holds no single labels within the scores; {remedy}')
    metric = ConfusionMatrix()
    metric.process(None, samples)
    return metric.compute_metrics(metric.results)['result'].numpy()


def class_names(cfg: Config, path: str, K: int) -> list[str]:
    """Return the class names of the config's head, or labels if it has none."""
    head = (cfg.get('model') or {}).get('cls_head') or {}
    if 'classes' not in head:
        return [str(label) for label in range(K)]
    names = load_classes(head['classes'])
    if len(names) != K:
        raise ConfigError(
            f'the predictions have {K} classes, {path} has {len(names)}; give the '
            f'config that was tested'
        )
    return names


# --- Writing ------------------------------------------------------------------------


def write_classes(path: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Write a line per class, worst first; classes without videos have no accuracy."""
    videos, correct = matrix.sum(1), matrix.diagonal()
    accuracy = correct / np.maximum(videos, 1)
    wrong = without_diagonal(matrix)
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for k in np.lexsort((accuracy, videos == 0)):
            taken_for = names[wrong[k].argmax()] if wrong[k].any() else ''
            share = f'{100 * accuracy[k]:.2f}' if videos[k] else ''
            writer.writerow([names[k], k, videos[k], correct[k], share, taken_for])


def print_pairs(matrix: np.ndarray, names: Sequence[str], topk: int) -> None:
    wrong, videos = without_diagonal(matrix), matrix.sum(1)
    print('| true class | taken for | videos | of the class |')
    print('| --- | --- | --- | --- |')
    for pair in wrong.argsort(axis=None, kind='stable')[::-1][:topk]:
        i, j = divmod(int(pair), len(wrong))
        if wrong[i, j]:
            share = f'{100 * wrong[i, j] / videos[i]:.1f} %'
            print(f'| {names[i]} | {names[j]} | {wrong[i, j]} | {share} |')


def without_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix - np.diag(matrix.diagonal())


# --- Drawing ------------------------------------------------------------------------


def plot(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw (K, K) counts in percent of their row, large enough for the names.

    MMAction2's own plot has a fixed size for any number of classes.
    """
    K = len(names)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    few = K <= FEW
    side = 4 + K * (ROOMY if few else NARROW)
    figure = Figure(figsize=(side, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    size = 10 if few else 7
    axes.set_xticks(range(K), names, rotation=90, fontsize=size)
    axes.set_yticks(range(K), names, fontsize=size)
    axes.set(xlabel='predicted', ylabel='true')
    if few:
        for (i, j), value in np.ndenumerate(share):
            colour = 'white' if value > 50 else 'black'
            axes.text(j, i, f'{value:.0f}', ha='center', va='center', color=colour)
    figure.colorbar(image, shrink=0.5, label='% of the true class')
    return figure


if __name__ == '__main__':
    sys.exit(main())
