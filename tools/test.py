"""Test a model: print its metrics, save its predictions, draw them."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import mmstop  # noqa: F401  (patches dependencies and registers modules)
from mmstop.compat.distributed import end_process_group
from mmstop.config import KeyValues, load_config
from mmstop.config_check import check_config
from mmstop.datasets import VideoError
from mmstop.datasets.data_workers import plain_worker_errors
from mmstop.engine.hooks import refuse_untrained
from mmstop.errors import ConfigError

HOOK = 'VideoVisualizationHook'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file')
    add(
        'checkpoint',
        nargs='?',
        help="checkpoint file; omit it, or give 'none', if the model was not trained",
    )
    add('--work-dir', help='folder of logs')
    add('--dump', metavar='FILE.pkl', help='save the predictions in this file')
    add('--show-dir', help='draw videos with their predictions into this folder')
    add('--interval', type=int, default=1, help='with --show-dir: every n-th video')
    add(
        '--rawframes',
        action='store_true',
        help='read extracted frames and their lists instead of videos (docs/data.md)',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='change the config: test_dataloader.batch_size=4; lists as "[a,b]" or a,b',
    )
    add('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    add('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    if args.interval < 1:
        parser.error(f'--interval {args.interval}: it must be at least 1')
    if args.dump and not args.dump.endswith(('.pkl', '.pickle')):
        parser.error(f'--dump {args.dump}: its name must end in .pkl or .pickle')
    return args


def read_config(args: argparse.Namespace) -> Config:
    """Load the config, override it with the arguments, and check the result.

    Raises:
        ConfigError: the config or an argument is invalid.
    """
    cfg = load_config(args.config, args.cfg_options, args.rawframes)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    if cfg.get('test_dataloader') is None:
        raise ConfigError(f'{args.config} has no test_dataloader, nothing to test')
    cfg.resume = False
    cfg.load_from = None if args.checkpoint in (None, 'none') else args.checkpoint
    if args.dump is not None:
        evaluators = cfg.test_evaluator
        if not isinstance(evaluators, (list, tuple)):
            evaluators = [evaluators]
        dump = dict(type='DumpResults', out_file_path=args.dump)
        cfg.test_evaluator = [*evaluators, dump]
    if args.show_dir is not None:
        _draw(cfg, args.show_dir, args.interval)
    check_config(cfg, ['test'])
    return cfg


def _draw(cfg: Config, show_dir: str, interval: int) -> None:
    hooks = dict(cfg.get('default_hooks') or {})
    hook = dict(hooks.get('visualization') or {})
    if hook.get('type') not in (HOOK, f'mmstop.{HOOK}'):
        hook = dict(type=HOOK)
    hook.update(enable=True, out_dir=show_dir, interval=interval)
    cfg.default_hooks = dict(hooks, visualization=hook)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = read_config(args)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        if cfg.load_from is None:
            refuse_untrained(runner.model, args.config)
        with plain_worker_errors():
            runner.test()
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except VideoError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    del runner
    end_process_group()
    return 0


if __name__ == '__main__':
    sys.exit(main())
