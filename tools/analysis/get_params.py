"""Count the parameters of a config's model, as in the paper's column Params.

    python tools/analysis/get_params.py configs/stop_ssv2.py
    python tools/analysis/get_params.py configs/stop_ssv2.py --json params.json

Nothing is downloaded and no weights are held in memory. The checkpoint size is that of
the weights which the config's checkpoint hook saves, without optimizer state.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Optional
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, DefaultScope
from torch import nn

from mmstop.config import KeyValues, load_config
from mmstop.config_check import check_config
from mmstop.errors import ConfigError
from mmstop.registry import MODELS
from mmstop.towers.weights import build_clip


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config')
    add('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE')
    add('--json', type=Path, metavar='FILE', help='also write the counts as JSON')
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options)
        if not isinstance(cfg.get('model'), dict):
            raise ConfigError(f'{args.config} has no model to count')
        check_config(cfg, [])
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    model = build(cfg)
    counts = {'config': args.config, **count(model)}
    counts['checkpoint_mb'] = checkpoint_bytes(cfg, model) / 1e6
    print(table(counts))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(counts, indent=1))
    return 0


def build(cfg: Config) -> nn.Module:
    """Build a model without values, only with sizes."""

    def without_weights(arch: str, weights: Optional[str]) -> nn.Module:
        return build_clip(arch, None)

    # Changing the config is not enough, since weights may be a method's default.
    no_weights = mock.patch('mmstop.towers.clip.build_clip', without_weights)
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope'))
    with no_weights, scope, torch.device('meta'):
        return MODELS.build(cfg.model)


def count(model: nn.Module) -> dict:
    """Count trainable and total parameters, of the model and of its submodules."""
    modules: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        part = '.'.join(name.split('.')[:2])  # such as backbone.spatial
        sizes = modules.setdefault(part, {'trainable': 0, 'total': 0})
        sizes['total'] += parameter.numel()
        sizes['trainable'] += parameter.numel() * parameter.requires_grad
    both = {
        key: sum(sizes[key] for sizes in modules.values())
        for key in ('trainable', 'total')
    }
    return {**both, 'modules': modules}


def checkpoint_bytes(cfg: Config, model: nn.Module) -> int:
    """Return the size of the weights that the config's checkpoint hook saves."""
    given = (cfg.get('default_hooks') or {}).get('checkpoint')
    hook = HOOKS.build(given) if given else CheckpointHook()
    checkpoint = {'state_dict': dict(model.state_dict())}
    hook.before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    return sum(
        value.numel() * value.element_size()
        for value in checkpoint['state_dict'].values()
    )


def table(counts: dict) -> str:
    rows = [*counts['modules'].items(), ('all', counts)]
    lines = [
        f'| {name} | {sizes["trainable"]:,} | {sizes["total"]:,} |'
        for name, sizes in rows
    ]
    return '\n'.join(
        [
            f'| {counts["config"]} | trainable parameters | total |',
            '| --- | --- | --- |',
            *lines,
            '',
            f'{counts["trainable"] / 1e6:.2f} M parameters train; a checkpoint of the '
            f'weights takes {counts["checkpoint_mb"]:.1f} MB.',
        ]
    )


if __name__ == '__main__':
    sys.exit(main())
