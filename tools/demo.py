"""Show STOP learn Moving Shapes: data, training, testing, two tables, two pictures.

First to name the motions, then, from these weights, to find videos by captions. What is
there already is reused: the data, a finished training, an unfinished one up to its last
checkpoint. ``--fresh`` starts anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = Path('work_dirs/demo')
NAMES = 'moving_shapes'
CAPTIONS = 'moving_shapes_retrieval'
# So that all of it stays within five minutes: one epoch on captions, few validations.
FEW_VALIDATIONS = 'train_cfg.val_interval=4'
ONE_EPOCH = 'train_cfg.max_epochs=1'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fresh', action='store_true', help='forget earlier demos')
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    run('1/6 Data', 'tools/data/moving_shapes.py')
    start = time.monotonic()
    frozen = test('2/6 Frozen CLIP', {f'clip_{NAMES}': None, f'clip_{CAPTIONS}': None})
    title = '3/6 STOP learns to name motions'
    named = train(title, f'stop_{NAMES}', FEW_VALIDATIONS)
    title = '4/6 STOP goes on with captions'
    found = train(title, f'stop_{CAPTIONS}', f'load_from={named}', ONE_EPOCH)
    tuned = test('5/6 STOP', {f'stop_{NAMES}': named, f'stop_{CAPTIONS}': found})
    seconds = time.monotonic() - start
    trace = draw('trace', f'stop_{NAMES}', named)
    ranking = draw('retrieval', f'stop_{CAPTIONS}', found)
    print_accuracies(*(results['acc/top1'] for results, _ in (frozen, tuned)))
    print_recalls(*(results for _, results in (frozen, tuned)))
    print(f'Training and testing took {seconds:.0f} s.')
    print(f'What was prompted in four test videos: {trace}')
    print(f'What four captions find: {ranking}')


def config(name: str) -> str:
    return f'configs/{name}.py'


def train(title: str, name: str, *options: str) -> Path:
    """Run tools/train.py and return the checkpoint that was best in validation."""
    work_dir = WORK / name
    if (work_dir / 'finished').exists():
        print(f'\n== {title}: finished before, reused')
    else:
        arguments = ['--work-dir', work_dir, '--resume', '--cfg-options', *options]
        run(title, 'tools/train.py', config(name), *arguments)
        (work_dir / 'finished').touch()
    (best,) = work_dir.glob('best_*.pth')
    return best


def test(title: str, checkpoints: dict[str, Path | None]) -> list[dict[str, float]]:
    """Run tools/test.py for some configs at once and return what each measured."""

    def one(name: str) -> dict[str, float]:
        work_dir = WORK / f'test_{name}'
        arguments = [config(name), checkpoints[name] or 'none', '--work-dir', work_dir]
        run(f'{title}: {name}', 'tools/test.py', *arguments)
        logs = sorted(work_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
        return json.loads(logs[-1].read_text())

    with ThreadPoolExecutor() as pool:  # most of it is starting up
        return list(pool.map(one, checkpoints))


def draw(kind: str, name: str, checkpoint: Path) -> Path:
    """Run a tool that draws and return its picture."""
    picture, tool = WORK / f'{kind}.png', f'tools/analysis/draw_{kind}.py'
    run('6/6 Picture', tool, config(name), checkpoint, '--out', picture)
    return picture


def run(title: str, *command: object) -> None:
    print(f'\n== {title}', flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def print_accuracies(frozen: float, tuned: float) -> None:
    rows = [('chance', 1 / 9), ('frozen CLIP', frozen), ('STOP', tuned)]
    print('\nMoving Shapes, nine motions, test split, top-1 accuracy')
    for name, accuracy in rows:
        print(f'  {name:<12}{100 * accuracy:6.1f} %  {"#" * round(40 * accuracy)}')


def print_recalls(frozen: dict[str, float], tuned: dict[str, float]) -> None:
    print(
        '\nMoving Shapes, 200 captions and 200 test videos, recall in % and mean rank'
    )
    columns = [
        f'{way}/{name}' for way in ('t2v', 'v2t') for name in ('R1', 'R5', 'MnR')
    ]
    print(' ' * 14 + ''.join(f'{column:>9}' for column in columns))
    for name, results in (('frozen CLIP', frozen), ('STOP', tuned)):
        values = (results[f'retrieval/{column}'] for column in columns)
        print(f'  {name:<12}' + ''.join(f'{value:9.1f}' for value in values))


if __name__ == '__main__':
    main()
