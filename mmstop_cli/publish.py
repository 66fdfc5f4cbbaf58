"""Write a trained model into a folder to share, as the Hugging Face hub expects it.

    mmstop publish configs/stop_msrvtt.py best.pth shared --license apache-2.0 \\
        --metrics work_dirs/stop_msrvtt/20260101_120000/20260101_120000.json

The folder gets what was trained (safetensors), the config (JSON) and a model card, but
no code, and not CLIP's weights. VideoCLIP.from_pretrained('shared') reads it.
docs/sharing.md shows how to upload it.
"""

import argparse
from pathlib import Path
from typing import Optional

from .shared import add_cfg_options, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('config', help='config file of a recognizer or a retriever')
    add('checkpoint', help='what was trained')
    add('out', metavar='DIR', help='the folder, which is made if need be')
    add(
        '--license',
        default='unknown',
        help="of the trained weights, by the hub's name for it (%(default)s)",
    )
    add(
        '--metrics',
        metavar='FILE.json',
        help='results that tools/test.py wrote into its work directory',
    )
    add(
        '--weights',
        metavar='TAG',
        help="tag of the CLIP below, if the config names a file: openai for OpenAI's",
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> None:
    from mmstop.apis.publishing import publish
    from mmstop.text import printable

    metrics = _read_metrics(args.metrics)  # before the model is built
    for path in publish(
        read_config(args),
        args.checkpoint,
        args.out,
        args.weights,
        args.license,
        metrics,
        args.cfg_options,
    ):
        print(printable(f'{path}: {Path(path).stat().st_size / 1e6:.1f} MB'))


def _read_metrics(path: Optional[str]) -> dict[str, float]:
    """Read test results, without the times that stand beside them."""
    from mmstop.errors import ConfigError
    from mmstop.text import read_json

    if path is None:
        return {}
    content = read_json(path)
    found = content if isinstance(content, dict) else {}
    found = {
        key: value
        for key, value in found.items()
        if '/' in key and isinstance(value, (int, float))
    }
    if not found:
        raise ConfigError(
            f'--metrics {path}: it has no results such as "acc/top1": 0.83; give the '
            f'JSON file that tools/test.py wrote, TIME/TIME.json in its work directory'
        )
    return found
