"""Train a model from a config file."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Optional

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import mmstop  # noqa: F401  (patches dependencies and registers modules)
from mmstop.compat.distributed import end_process_group
from mmstop.config import KeyValues, load_config
from mmstop.config_check import check_config
from mmstop.datasets import VideoError
from mmstop.datasets.data_workers import plain_worker_errors
from mmstop.engine.saving import SaveError
from mmstop.errors import ConfigError


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('config', help='config file')
    add('--work-dir', help='folder of logs and checkpoints')
    add(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or the latest one in the work directory',
    )
    add('--amp', action='store_true', help='mixed precision; needs a GPU')
    add('--no-validate', action='store_true', help='do not evaluate while training')
    add(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    add('--seed', type=int, help='seed, instead of the one in the config')
    add('--diff-rank-seed', action='store_true', help='a different seed per process')
    add('--deterministic', action='store_true', help='deterministic algorithms only')
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
        help='change the config: model.backbone.alpha=0.5; lists as "[a,b]" or a,b',
    )
    add('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    add('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace) -> Config:
    """Load the config, override it with the arguments, and check the result.

    Raises:
        ConfigError: the config or an argument is invalid.
    """
    cfg = load_config(args.config, args.cfg_options, args.rawframes)
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise ConfigError(f'{args.config} has no {key}, nothing to train')
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    _set_start(cfg, args.resume)
    _set_randomness(cfg, args)
    if args.auto_scale_lr:
        _scale_lr(cfg)
    _set_precision(cfg, args.amp)
    _check_work_dir(cfg.work_dir)
    check_config(cfg, ['train'] if cfg.get('val_cfg') is None else ['train', 'val'])
    return cfg


def _check_work_dir(work_dir: str) -> None:
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=work_dir).close()
    except OSError as error:
        raise ConfigError(
            f'work_dir={work_dir!r} cannot be written: {error.strerror}; choose '
            f'another with --work-dir'
        ) from None


def _set_start(cfg: Config, resume: Optional[str]) -> None:
    """Set the start: 'auto' resumes the work directory's last checkpoint, if any."""
    if resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, resume
    elif resume == 'auto' and Path(cfg.work_dir, 'last_checkpoint').is_file():
        cfg.resume, cfg.load_from = True, None


def _set_randomness(cfg: Config, args: argparse.Namespace) -> None:
    given = {
        'seed': args.seed,
        'diff_rank_seed': args.diff_rank_seed or None,
        'deterministic': args.deterministic or None,
    }
    randomness = dict(cfg.get('randomness') or {'seed': None})
    randomness.update({k: v for k, v in given.items() if v is not None})
    cfg.randomness = randomness
    if randomness.get('deterministic'):  # cuBLAS reads it when CUDA starts
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


def _scale_lr(cfg: Config) -> None:
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise ConfigError(
            '--auto-scale-lr: the config does not state the total batch size of its '
            'learning rate; add auto_scale_lr=dict(base_batch_size=...)'
        )
    cfg.auto_scale_lr.enable = True


def _set_precision(cfg: Config, amp: bool) -> None:
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    wrapper = getattr(wrapper, '__name__', wrapper)  # a class, in a lazy-import config
    if amp:
        if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ConfigError(
                f'--amp: optim_wrapper is {wrapper}, which has no mixed precision; '
                f'only OptimWrapper can be replaced by AmpOptimWrapper'
            )
        cfg.optim_wrapper.type = wrapper = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if wrapper == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise ConfigError(
            f'mixed precision needs a GPU, but this machine has only '
            f'{get_device()!r}; leave out '
            f'{"--amp" if amp else "optim_wrapper.type=AmpOptimWrapper"}'
        )


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = read_config(args)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        with plain_worker_errors():
            runner.train()
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except (SaveError, VideoError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    del runner
    end_process_group()
    return 0


if __name__ == '__main__':
    sys.exit(main())
