"""Measure how many videos per second a config's training pipeline loads.

This is the part of tools/analysis/benchmark.py that decodes videos and runs no model.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from mmstop.datasets.videos import DECODERS
from mmstop.engine.checks import ConfigError

OPENERS = {'CheckedDecordInit', 'DecordInit', 'OpenCVInit', 'PyAVInit'}
DECODES = {'DecordDecode', 'OpenCVDecode', 'PyAVDecode'}
AS_CONFIGURED = 'as configured'


def measure_pipeline(
    cfg: Config, workers: Sequence[int], num_videos: int, repeats: int
) -> dict:
    """Measure data loading by decoder and number of worker processes.

    Args:
        cfg: config with a ``train_dataloader``.
        workers: numbers of worker processes; 0 loads in the main process.
        num_videos: minimum number of videos to load in each measurement.
        repeats: rounds in which all combinations take turns.

    Raises:
        ConfigError: there is no training data.
    """
    loader = cfg.get('train_dataloader')
    if loader is None:
        raise ConfigError(f'{cfg.filename} has no train_dataloader to measure')
    init_default_scope(cfg.get('default_scope') or 'mmaction')
    set_multi_processing(**(cfg.get('env_cfg') or {}).get('mp_cfg', {}))
    loaders = {
        (decoder, n): with_workers(dict(loader, dataset=dataset), n)
        for decoder, dataset in by_decoder(loader.dataset).items()
        for n in workers
    }
    rates: dict = {key: [] for key in loaders}
    for _ in range(repeats):
        for (decoder, n), config in loaders.items():
            data = Runner.build_dataloader(config, seed=0)
            if len(data) == 0:
                raise ConfigError(f'{cfg.filename}: the training data fills no batch')
            rates[decoder, n].append(throughput(data, num_videos, skip=max(1, n)))
    rows = [
        {
            'decoder': decoder,
            'workers': n,
            'videos_per_s': float(np.median(values)),
            'quartiles': np.percentile(values, [25, 75]).tolist(),
        }
        for (decoder, n), values in rates.items()
    ]
    return {'config': cfg.filename, 'batch': loader.get('batch_size'), 'rows': rows}


def by_decoder(dataset: dict) -> dict[str, Any]:
    """Return the dataset's config with each decoder: {name: config of the dataset}.

    A dataset that is not decoded from videos, e.g. raw frames, stays as it is.
    """
    copies = {name: redecode(dataset, name) for name in DECODERS}
    if all(copy == dataset for copy in copies.values()):
        return {AS_CONFIGURED: dataset}
    return copies


def redecode(node: Any, decoder: str) -> Any:
    """Copy a config, and set a decoder of ``CheckedDecordInit`` wherever it decodes."""
    if isinstance(node, (list, tuple)):
        return type(node)(redecode(child, decoder) for child in node)
    if not isinstance(node, dict):
        return node
    kind = str(node.get('type')).split('.')[-1]
    if kind in OPENERS:
        return dict(_keep(node, 'CheckedDecordInit', 'io_backend'), decoder=decoder)
    if kind in DECODES:
        return _keep(node, 'DecordDecode', 'mode')
    return {key: redecode(child, decoder) for key, child in node.items()}


def _keep(node: dict, kind: str, shared: str) -> dict:
    """Replace a transform and keep the one argument that all decoders share."""
    return dict(type=kind, **({shared: node[shared]} if shared in node else {}))


def with_workers(loader: dict, n: int) -> dict:
    # Without persistent workers, a small dataset would spend its time starting them.
    changed = dict(loader, num_workers=n, persistent_workers=n > 0)
    if n == 0:
        changed.pop('prefetch_factor', None)
        changed.pop('timeout', None)
    return changed


def throughput(
    data: Iterable[dict],
    num_videos: int,
    skip: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Load videos as fast as possible, epoch after epoch: videos per second.

    The first batches do not count, since other workers are still starting.
    """
    batches = (batch for _ in itertools.count() for batch in data)
    for _ in range(skip):
        next(batches)
    start, seen = clock(), 0
    while seen < num_videos:
        seen += len(next(batches)['data_samples'])
    return seen / (clock() - start)
