"""Show STOP learn on Moving Shapes: data, training, testing, a table, a picture.

What is there already is reused: the data, a finished training, an unfinished one up to
its last checkpoint. ``--fresh`` starts anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = Path('work_dirs/demo')
STOP = 'configs/stop_moving_shapes.py'
CLIP = 'configs/clip_moving_shapes.py'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fresh', action='store_true', help='forget earlier demos')
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    run('1/5 Data', 'tools/data/moving_shapes.py')
    start = time.monotonic()
    frozen = test('2/5 Frozen CLIP on the test split', CLIP)
    train('3/5 STOP trains on the same CLIP')
    best = best_checkpoint()
    tuned = test('4/5 STOP on the test split', STOP, best)
    seconds = time.monotonic() - start
    picture = WORK / 'trace.png'
    run('5/5 Picture', 'tools/analysis/draw_trace.py', STOP, best, '--out', picture)
    print_table(frozen, tuned, seconds, picture)


def train(title: str) -> None:
    work_dir = WORK / 'stop'
    if (work_dir / 'finished').exists():
        print(f'\n== {title}: finished before, reused')
        return
    run(title, 'tools/train.py', STOP, '--work-dir', work_dir, '--resume')
    (work_dir / 'finished').touch()


def best_checkpoint() -> Path:
    """Return the checkpoint that scored best on the validation split."""
    (path,) = (WORK / 'stop').glob('best_acc_top1_*.pth')
    return path


def test(title: str, config: str, *checkpoint: Path) -> float:
    """Run tools/test.py and return its top-1 accuracy, in [0, 1]."""
    work_dir = WORK / f'test_{Path(config).stem}'
    run(title, 'tools/test.py', config, *checkpoint, '--work-dir', work_dir)
    logs = sorted(work_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    return json.loads(logs[-1].read_text())['acc/top1']


def run(title: str, *command: object) -> None:
    print(f'\n== {title}', flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def print_table(frozen: float, tuned: float, seconds: float, picture: Path) -> None:
    rows = [('chance', 1 / 9), ('frozen CLIP', frozen), ('STOP', tuned)]
    print('\nMoving Shapes, nine motions, test split, top-1 accuracy')
    for name, accuracy in rows:
        print(f'  {name:<12}{100 * accuracy:6.1f} %  {"#" * round(40 * accuracy)}')
    print(f'Training and testing took {seconds:.0f} s.')
    print(f'What was prompted in four test videos: {picture}')


if __name__ == '__main__':
    main()
