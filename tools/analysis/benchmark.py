"""Measure the cost of prompting compared with open_clip's plain frozen tower.

    python tools/analysis/benchmark.py --methods stop-joint stop-frame --memory
    python tools/analysis/benchmark.py configs/stop_ssv2.py --methods clip
    python tools/analysis/benchmark.py --sweep frames batch --batch 1 --plot sweep.png

All towers take turns in one process, on the same random videos and with random weights.
Speed depends on neither, except through the number of STOP's temporal prompts, which is
reported. A training step is the forward pass, the backward pass and AdamW's update of
the video tower alone; a tower with nothing to train passes the gradient to its input.
Ratios are relative to open_clip's tower in the same round. Every column is a median.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import matplotlib.style
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from measuring import added_mb, alone, positive, rounds
from reports import draw_runs, table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmstop.config import load_config
from mmstop.config_check import check_config
from mmstop.errors import ConfigError
from mmstop.methods import STOPCLIPViT
from mmstop.registry import MODELS
from mmstop.towers import CLIPTower, TunedTower
from mmstop.towers.weights import build_clip, resolve_arch

REFERENCE = 'open_clip'
JOINT, FRAME = dict(type='STOPCLIPViT'), dict(type='STOPCLIPViT', attention='frame')
MERGED = dict(clip=dict(type='CLIPViT', merge=4))
METHODS: dict[str, dict] = {  # name -> config of the video tower, without its arch
    REFERENCE: dict(type=REFERENCE),
    'clip': dict(type='CLIPViT'),
    'stop-joint': JOINT,
    'stop-frame': FRAME,
    'stop-joint-merge': dict(JOINT, **MERGED),
    # What the parts cost: attention over all frames, and each prompter on top of it.
    'joint-attention': dict(JOINT, num_spatial=0, temporal_scale=0),
    'stop-joint-spatial': dict(JOINT, temporal_scale=0),
    'stop-joint-temporal': dict(JOINT, num_spatial=0),
    # Prompts at the input only.
    'stop-joint-input': dict(JOINT, depth=1),
    'stop-frame-input': dict(FRAME, depth=1),
    'stop-joint-merge-input': dict(JOINT, depth=1, **MERGED),
    # Over frames, too, and twice as many.
    'stop-joint-merge-frames-input': dict(
        JOINT, depth=1, merge_frames=4, clip=dict(type='CLIPViT', merge=8)
    ),
}
DEFAULT_ARCH = 'ViT-B-32-quickgelu'
SWEEPS: dict[str, list] = {
    'frames': [4, 8, 16, 32, 64],
    'batch': [1, 4, 16],
    'arch': [DEFAULT_ARCH, 'ViT-B-16-quickgelu', 'ViT-L-14-quickgelu'],
}
WORKS = ('forward', 'step')
DRAWN = ('forward_ms', 'step_ms', 'forward_ratio', 'step_ratio')


class Setup(NamedTuple):
    """The size of the problem, and where it is solved."""

    arch: str
    frames: int
    batch: int
    device: str = 'cpu'
    dtype: str = 'float32'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', nargs='?', help='a config whose video tower is measured too')
    add('--methods', nargs='+', choices=list(METHODS), help='all if no config is given')
    add('--arch', help=f"open_clip's name or a JSON file; {DEFAULT_ARCH}")
    add('--frames', type=positive, help="the config's, or 12")
    add('--batch', type=positive, help="the config's, or 2")
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    add('--threads', type=positive, default=torch.get_num_threads(), help='of the CPU')
    add('--repeats', type=positive, default=10, help='rounds')
    add('--memory', action='store_true', help='peaks, each in its own process')
    add('--sweep', nargs='+', choices=list(SWEEPS), default=[])
    add('--out', type=Path, help='JSON to write')
    add('--plot', type=Path, help='picture of a sweep to write')
    args = parser.parse_args(argv)
    if args.plot and not args.sweep:
        parser.error('--plot draws a sweep; add --sweep')
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    try:
        run(args)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> None:
    """Measure, print, write and draw.

    Raises:
        ConfigError: an argument or the config is invalid.
    """
    torch.set_num_threads(args.threads)
    towers, base = choose(args)
    points = [
        (axis, base._replace(**{axis: value}))
        for axis in args.sweep
        for value in SWEEPS[axis]
    ]
    found: list[dict] = []
    for axis, setup in points or [('', base)]:
        rows = measure(towers, setup, args.repeats, args.memory)
        print(f'\n{setup}, {args.threads} threads\n{summary(rows)}', flush=True)
        found += [{'axis': axis, **setup._asdict(), **row} for row in rows]
        if args.out:  # now, so that a later failure loses nothing
            report = {
                'torch': torch.__version__,
                'threads': args.threads,
                'rows': found,
            }
            args.out.write_text(json.dumps(report, indent=1) + '\n')
    if args.plot:
        plot(found).savefig(args.plot, dpi=100)


# --- What to measure ----------------------------------------------------------------


def choose(args: argparse.Namespace) -> tuple[dict[str, dict], Setup]:
    """Return the towers' configs, the reference first, and the size."""
    names = args.methods or ([] if args.config else METHODS)
    towers = {name: METHODS[name] for name in (REFERENCE, *names)}
    cfg: dict = {}
    arch = args.arch or DEFAULT_ARCH
    if args.config:
        cfg = load_config(args.config)
        check_config(cfg, [])
        if 'backbone' not in (cfg.get('model') or {}):
            raise ConfigError(f'{args.config} has no model.backbone to measure')
        tower = towers[Path(args.config).stem] = cfg.model.backbone.to_dict()
        with_arch(tower, arch)  # refuse it now, not after others were built
        arch = args.arch or arch_of(tower)
    resolve_arch(arch)
    loader = cfg.get('train_dataloader') or {}
    frames = args.frames or cfg.get('num_frames', 12)
    batch = args.batch or loader.get('batch_size', 2)
    return towers, Setup(arch, frames, batch, args.device, args.dtype)


def arch_of(tower: dict) -> str:
    """Return the architecture of the CLIP inside a tower's config."""
    while 'clip' in tower:
        tower = tower['clip']
    return tower.get('arch', DEFAULT_ARCH)


def with_arch(tower: dict, arch: str) -> dict:
    """Copy a tower's config with ``arch`` and random weights for the CLIP inside.

    Speed does not depend on the weights, so nothing has to be downloaded.

    Raises:
        ConfigError: ``tower`` is neither a CLIP tower nor a method around one.
    """
    kind = MODELS.get(tower['type'])
    if issubclass(kind, TunedTower):
        inside = tower.get('clip', dict(type='CLIPViT'))
        return dict(tower, clip=with_arch(inside, arch))
    if issubclass(kind, CLIPTower):
        return dict(tower, arch=arch, weights=None)
    raise ConfigError(
        f'backbone of type {tower["type"]} is neither a CLIP tower nor a method around '
        f'one; choose a config whose model.backbone is, such as configs/stop_ssv2.py'
    )


class OpenCLIP(nn.Module):
    """The frozen tower as open_clip runs it, with all frames of the batch as images.

    (B, 3, T, H, W) -> (B, E), the mean of the frames' unit-norm embeddings.
    """

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.visual: Any = build_clip(resolve_arch(arch), None).visual
        self.requires_grad_(False)

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        B, _, T = video.shape[:3]
        frames = self.visual(video.transpose(1, 2).flatten(0, 1))  # (B T, E)
        return F.normalize(frames, dim=-1).unflatten(0, (B, T)).mean(1)


class Contestant:
    """A tower with its input videos and its two workloads, forward and training step.

    Gradients go to the trainable parameters. A tower without any passes the gradient to
    the videos, which is the minimum cost of training something below it.
    """

    def __init__(self, tower: dict, setup: Setup) -> None:
        torch.manual_seed(0)
        self.setup, arch = setup, setup.arch
        self.model = (
            OpenCLIP(arch)
            if tower['type'] == REFERENCE
            else MODELS.build(with_arch(tower, arch))
        ).to(setup.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        visual: Any = next(m for m in self.model.modules() if hasattr(m, 'visual'))
        size = setup.batch, 3, setup.frames, *visual.visual.image_size
        video = torch.randn(size, generator=torch.Generator().manual_seed(0))
        self.video = video.to(setup.device).requires_grad_(not self.trained)
        # A learning rate of zero costs the same, and keeps the work equal in all
        # rounds. With other parameters, STOP would choose another number of prompts.
        self.leaves = self.trained or [self.video]
        self.optimizer = torch.optim.AdamW(self.leaves, lr=0.0)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Embed the videos, as in a test."""
        return self._embed(self.model.eval(), self.video)

    def step(self) -> None:
        """Take a training step."""
        self.optimizer.zero_grad()
        # One coordinate, since the length of a unit vector has no gradient.
        out = self._embed(self.model.train(), self.video)
        out[:, 0].float().sum().backward()
        if self.trained:
            self.optimizer.step()

    def _embed(self, model: nn.Module, video: Tensor) -> Tensor:
        dtype = getattr(torch, self.setup.dtype)
        mixed = dtype != torch.float32
        with torch.autocast(self.setup.device, dtype if mixed else None, enabled=mixed):
            return model(video)


# --- Measuring ----------------------------------------------------------------------


def measure(
    towers: dict[str, dict], setup: Setup, repeats: int, memory: bool
) -> list[dict]:
    """Measure all towers at one size: a row for each, with a list of its rounds."""
    made = {name: Contestant(tower, setup) for name, tower in towers.items()}
    works = {(name, w): getattr(c, w) for name, c in made.items() for w in WORKS}
    seconds = rounds(works, repeats)
    rows = []
    for name, contestant in made.items():
        row: dict[str, Any] = {'tower': name}
        for work in WORKS:
            ratios = np.divide(seconds[name, work], seconds[REFERENCE, work])
            row[f'{work}_ratio'] = ratios.tolist()
            row[f'{work}_ms'] = [1e3 * s for s in seconds[name, work]]
        row['step_videos_per_s'] = [setup.batch / s for s in seconds[name, 'step']]
        row['gmacs_per_video'] = count_macs(contestant) / setup.batch / 1e9
        row['trained'] = sum(p.numel() for p in contestant.trained)
        row['prompts'] = count_prompts(contestant)
        if memory:
            row |= alone(peaks, towers[name], setup)
        rows.append(row)
    return rows


def peaks(tower: dict, setup: Setup) -> dict[str, float]:
    """Measure the peak memory in MB that each workload adds to weights and videos.

    The step is the first one, so it includes the optimizer's state as well as
    activations and gradients.
    """
    contestant = Contestant(tower, setup)
    contestant.forward()  # loads the kernels
    works = {f'{work}_mb': getattr(contestant, work) for work in WORKS}
    return {name: added_mb(work, setup.device) for name, work in works.items()}


def count_macs(contestant: Contestant) -> float:
    """Count the multiply-adds of one forward pass, in matrices and convolutions.

    PyTorch's counter has no formula for the fused CPU kernels of attention and of
    nn.MultiheadAttention, so both are replaced by matrix products.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # The counter fails at views of what requires a gradient.
    for leaf in contestant.leaves:
        leaf.requires_grad_(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as mode:
            contestant.forward()
    finally:
        for leaf in contestant.leaves:
            leaf.requires_grad_(True)
        torch.backends.mha.set_fastpath_enabled(fast)
    return mode.get_total_flops() / 2


@torch.no_grad()
def count_prompts(contestant: Contestant) -> float:
    """Count the temporal prompts of a video, on average over videos and blocks."""
    for module in contestant.model.modules():
        if isinstance(module, STOPCLIPViT):
            counts = [t.num_prompts.sum(1) for t in module.traces(contestant.video)]
            return torch.stack(counts).double().mean().item()
    return 0.0


# --- Reporting ----------------------------------------------------------------------


def summary(rows: list[dict]) -> str:
    """Make a table of one size."""
    medians = [
        [float(np.median(v)) if isinstance(v, list) else v for v in row.values()]
        for row in rows
    ]
    return table(list(rows[0]), medians)


def plot(rows: list[dict]) -> Figure:
    """Draw the times and ratios of a sweep, with a row for every axis."""
    axes = list(dict.fromkeys(row['axis'] for row in rows))
    names = list(dict.fromkeys(row['tower'] for row in rows))
    with matplotlib.style.context('tableau-colorblind10'):
        figure = Figure(figsize=(16, 4 * len(axes)), layout='constrained')
        grid = figure.subplots(len(axes), len(DRAWN), squeeze=False)
    for (axis, key), panel in zip(((a, k) for a in axes for k in DRAWN), grid.flat):
        panel.set_xscale('linear' if axis == 'arch' else 'log')
        panel.set(xlabel=axis, title=key.replace('_', ', '))
        for name in names:
            chosen = (r for r in rows if (r['axis'], r['tower']) == (axis, name))
            runs = {str(row[axis]): row[key] for row in chosen}
            draw_runs(panel, runs, np.median, name)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize='small')
    return figure


if __name__ == '__main__':
    sys.exit(main())
