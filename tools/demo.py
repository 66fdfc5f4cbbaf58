"""Show STOP learn Moving Shapes: data, training, testing, two tables, two pictures.

STOP first learns to name the motions. Then, from these weights, it learns to find
videos by captions. Existing results are reused: the data, a finished training run, or
an unfinished one up to its last checkpoint. ``--fresh`` starts over. The screen shows
one line per step; the steps' own output goes to files in work_dirs/demo/logs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).parents[1]
WORK = Path('work_dirs/demo')
NAMES = 'moving_shapes'
CAPTIONS = 'moving_shapes_retrieval'
# To take minutes, not a quarter of an hour: five epochs instead of eight, one epoch on
# captions, one validation each.
FIVE_EPOCHS = 'train_cfg.max_epochs=5', 'train_cfg.val_interval=5'
ONE_EPOCH = 'train_cfg.max_epochs=1'
PROGRESS = re.compile(r'Epoch\(\w+\) .*?\[\d+/\d+\]')  # in MMEngine's log
TAIL = 12  # lines of a log that are shown if its step fails
WIDTH = 40  # letters of a step's name


class StepFailed(Exception):
    """A step failed; the text names its log and ends with the log's last lines."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fresh', action='store_true', help='forget earlier demos')
    args = parser.parse_args()
    os.chdir(ROOT)
    try:
        show(args.fresh)
    except StepFailed as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. The next demo goes on from the last checkpoint.')


def show(fresh: bool) -> None:
    if fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    run('1/6 Data', {'data': ['tools/data/moving_shapes.py']})
    start = time.monotonic()
    frozen = test(
        '2/6 Frozen CLIP', {f'clip/clip_{NAMES}': None, f'clip/clip_{CAPTIONS}': None}
    )
    title = '3/6 STOP learns to name motions'
    named = train(title, f'stop_{NAMES}', *FIVE_EPOCHS)
    title = '4/6 STOP goes on with captions'
    found = train(title, f'stop_{CAPTIONS}', f'load_from={named}', ONE_EPOCH)
    tuned = test('5/6 STOP', {f'stop_{NAMES}': named, f'stop_{CAPTIONS}': found})
    seconds = time.monotonic() - start
    trace, ranking = WORK / 'trace.png', WORK / 'retrieval.png'
    drawn = {trace: (f'stop_{NAMES}', named), ranking: (f'stop_{CAPTIONS}', found)}
    commands = {
        f'draw_{picture.stem}': [
            f'tools/analysis/draw_{picture.stem}.py',
            *(config(name), checkpoint, '--out', picture),
        ]
        for picture, (name, checkpoint) in drawn.items()
    }
    run('6/6 Pictures', commands)
    print_accuracies(*(results['acc/top1'] for results, _ in (frozen, tuned)))
    print_recalls(*(results for _, results in (frozen, tuned)))
    print(f'Training and testing took {seconds:.0f} s.')
    print(f'What was prompted in four test videos: {trace}, in full: {WORK}/trace/')
    print(f'What four captions find: {ranking}')
    print(f'Logs: {WORK}/logs/')


def config(name: str) -> str:
    return f'configs/{name}.py'


def train(title: str, name: str, *options: str) -> Path:
    """Run tools/train.py and return the checkpoint with the best validation score."""
    work_dir = WORK / name
    if (work_dir / 'finished').exists():
        print(f'{title:<{WIDTH}} finished before, reused')
    else:
        arguments = ['--work-dir', work_dir, '--resume', '--cfg-options', *options]
        command = ['tools/train.py', config(name), *arguments]
        run(title, {f'train_{name}': command})
        (work_dir / 'finished').touch()
    (best,) = work_dir.glob('best_*.pth')
    return best


def test(title: str, checkpoints: dict[str, Optional[Path]]) -> list[dict[str, float]]:
    """Run tools/test.py for several configs at once and return the metrics of each."""
    work_dirs = {name: WORK / f'test_{name}' for name in checkpoints}
    commands = {
        work_dir.name: [
            'tools/test.py',
            *(config(name), checkpoints[name] or 'none', '--work-dir', work_dir),
        ]
        for name, work_dir in work_dirs.items()
    }
    run(title, commands)
    results = []
    for work_dir in work_dirs.values():
        logs = sorted(work_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
        results.append(json.loads(logs[-1].read_text()))
    return results


def run(title: str, commands: dict[str, list]) -> None:
    """Run Python commands in parallel, shown as one line on the screen.

    Args:
        title: of the line.
        commands: by the name of the log that each writes to WORK/logs.

    Raises:
        StepFailed: one of them failed.
    """
    start = time.monotonic()
    logs = [WORK / 'logs' / f'{name}.log' for name in commands]
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    line = f'{title:<{WIDTH}} '
    print(line, end='', flush=True)
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    stdout=stack.enter_context(log.open('w')),
                    stderr=subprocess.STDOUT,
                )
            )
            for log, command in zip(logs, commands.values())
        ]
        for process, log in zip(running, logs):
            while process.poll() is None:
                if sys.stdout.isatty():
                    print(f'\r{line}{progress(log):<40}', end='', flush=True)
                time.sleep(0.2)
    seconds = f'{time.monotonic() - start:.0f} s'
    print(f'\r{line}{seconds:<40}' if sys.stdout.isatty() else seconds, flush=True)
    for process, log in zip(running, logs):
        if process.returncode:
            raise StepFailed(explain(title, process.returncode, log))


def progress(log: Path) -> str:
    """Return how far training or testing is, such as 'Epoch(train) [3][40/95]'."""
    return ([''] + PROGRESS.findall(log.read_text(errors='replace')))[-1]


def explain(title: str, code: int, log: Path) -> str:
    """Name a failed step and its log, and show the log's last lines."""
    lines = log.read_text(errors='replace').splitlines()[-TAIL:]
    shown = ''.join(f'\n    {line}' for line in lines)
    return f'{title}: failed with exit status {code}; {log} ends with:{shown}'


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
