"""Build video towers to compare with open_clip's, and measure their time and memory.

This is the part of tools/analysis/benchmark.py that runs models. As a program, it
prints the peak memory of one contestant, so that each peak is measured in its own
process:

    python tools/analysis/benchmark_model.py '{"name": "stop-joint", "arch": ...}'
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmstop.registry import MODELS
from mmstop.towers import CLIPTower, TunedTower
from mmstop.towers.weights import build_clip, resolve_arch

REFERENCE = 'open_clip'
DEFAULT_ARCH = 'ViT-B-32-quickgelu'
# One entry per contestant: a video tower's config, without its arch.
CONTESTANTS: dict[str, dict] = {
    REFERENCE: dict(type=REFERENCE),
    'clip': dict(type='CLIPViT'),
    'stop-joint': dict(type='STOPCLIPViT'),
    'stop-frame': dict(type='STOPCLIPViT', attention='frame'),
    'stop-joint-merge': dict(type='STOPCLIPViT', clip=dict(type='CLIPViT', merge=4)),
    'stop-frame-merge': dict(
        type='STOPCLIPViT', attention='frame', clip=dict(type='CLIPViT', merge=4)
    ),
    # Prompts at the input only.
    'stop-joint-input': dict(type='STOPCLIPViT', depth=1),
    'stop-frame-input': dict(type='STOPCLIPViT', attention='frame', depth=1),
    'stop-joint-merge-input': dict(
        type='STOPCLIPViT', depth=1, clip=dict(type='CLIPViT', merge=4)
    ),
    'deep-prompts': dict(type='DeepPromptCLIPViT'),
}
WORKS = ('forward', 'step')
MB = 1e6
PATIENCE = 5  # seconds; print a message if a round takes longer
# Otherwise the process keeps small freed allocations, which would hide a later peak.
MALLOC = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}


@dataclass(frozen=True)
class Setup:
    """One contestant at one problem size; all fields can be written as JSON."""

    name: str
    backbone: dict
    arch: str
    frames: int
    batch: int
    device: str
    dtype: str
    threads: int


class OpenCLIP(nn.Module):
    """The frozen tower as open_clip runs it, with all frames of the batch as images.

    (B, 3, T, H, W) -> (B, E), the mean of the frames' unit-norm embeddings. Weights
    are random, as for all contestants.
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

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.device = torch.device(setup.device)
        self.model = build_tower(setup.backbone, setup.arch).to(self.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.video = noise(setup, self.model).requires_grad_(not self.trained)
        # A learning rate of zero costs the same, and keeps the work equal in all
        # rounds. With other parameters, STOP would choose another number of prompts.
        self.optimizer = torch.optim.AdamW(self.trained or [self.video], lr=0.0)

    def prepare(self, work: str) -> None:
        self.model.train(work == 'step')

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self._embed(self.video.detach())

    def step(self) -> None:
        self.optimizer.zero_grad()
        # One coordinate, since the length of a unit vector has no gradient.
        self._embed(self.video)[:, 0].float().sum().backward()
        if self.trained:
            self.optimizer.step()

    def _embed(self, video: Tensor) -> Tensor:
        dtype = getattr(torch, self.setup.dtype)
        mixed = dtype != torch.float32
        with torch.autocast(self.device.type, dtype if mixed else None, enabled=mixed):
            return self.model(video)


def build_tower(backbone: dict, arch: str) -> nn.Module:
    """Build a contestant's tower with random weights.

    Raises:
        ValueError, FileNotFoundError: ``arch`` or ``backbone`` is invalid.
    """
    if backbone['type'] == REFERENCE:
        return OpenCLIP(arch)
    torch.manual_seed(0)
    return MODELS.build(with_arch(backbone, arch))


def with_arch(backbone: dict, arch: Optional[str]) -> dict:
    """Copy a tower's config with ``arch`` and random weights for the CLIP inside.

    Speed does not depend on the weights, so nothing has to be downloaded.

    Raises:
        ValueError: ``backbone`` is neither a CLIP tower nor a method around one.
    """
    cls = MODELS.get(backbone.get('type', ''))
    if isinstance(cls, type) and issubclass(cls, TunedTower):
        inside = backbone.get('clip', dict(type='CLIPViT'))
        return dict(backbone, clip=with_arch(inside, arch))
    if isinstance(cls, type) and issubclass(cls, CLIPTower):
        return dict(backbone, weights=None, **({'arch': arch} if arch else {}))
    raise ValueError(
        f'backbone of type {backbone.get("type")!r} is neither a CLIP tower nor a '
        f'method around one; choose a config whose model.backbone is one, such as '
        f'configs/stop_ssv2.py'
    )


def arch_of(backbone: dict) -> str:
    """Return the architecture that a tower's config names."""
    tower = with_arch(backbone, None)
    while 'clip' in tower:
        tower = tower['clip']
    return tower.get('arch', DEFAULT_ARCH)


def noise(setup: Setup, model: nn.Module) -> Tensor:
    """Make the same videos for every contestant, (B, 3, T, H, W)."""
    size = next(m.visual for m in model.modules() if hasattr(m, 'visual')).image_size
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(setup.batch, 3, setup.frames, *size, generator=generator)
    return video.to(setup.device)


# --- Time ---------------------------------------------------------------------------


def time_rounds(
    contestants: Mapping[str, Any],
    warmup: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, list[float]]]:
    """Time each workload of each contestant once per round: {name: {work: seconds}}.

    So if the machine is slower for a while, it affects all contestants equally.
    """
    times: dict = {name: {work: [] for work in WORKS} for name in contestants}
    begin = clock()
    for i in range(warmup + repeats):
        for name, contestant in contestants.items():
            for work in WORKS:
                contestant.prepare(work)
                _wait()
                start = clock()
                getattr(contestant, work)()
                _wait()
                if i >= warmup:
                    times[name][work].append(clock() - start)
        if i == 0 and clock() - begin > PATIENCE:
            left = warmup + repeats - 1
            each = f'{clock() - begin:.0f} s'
            print(f'a round takes {each}, {left} to come', file=sys.stderr, flush=True)
    return times


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def summarise(seconds: list[float], reference: list[float], batch: int) -> dict:
    """Compute median, quartiles, speed and the ratio to the reference, by round."""
    low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
    return {
        'median_ms': 1e3 * median,
        'quartiles_ms': [1e3 * low, 1e3 * high],
        'ratio': float(np.median(np.divide(seconds, reference))),
        'videos_per_s': batch / median,
        'all_ms': [1e3 * s for s in seconds],
    }


def rounds_of(
    works: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time some workloads in turns: {name: seconds of each round}."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = clock()
            work()
            seconds[name].append(clock() - start)
    return seconds


# --- Memory -------------------------------------------------------------------------


def peak_memory(contestant: Contestant) -> dict[str, float]:
    """Measure the peak memory in MB that each workload adds.

    Weights and videos are allocated before. The measured step is the first one, so it
    includes the optimizer's state as well as activations and gradients.
    """
    contestant.prepare('forward')
    contestant.forward()  # loads the kernels
    peaks = {}
    for work in WORKS:
        contestant.prepare(work)
        peaks[work] = peak_of(getattr(contestant, work), contestant.device) / MB
    return peaks


def peak_of(work: Callable[[], Any], device: torch.device) -> int:
    """Return the peak memory in bytes that ``work`` adds.

    On the CPU this is Linux's high-water mark of the resident memory. Unlike the one of
    ``getrusage``, it can be reset after the model is built.
    """
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    # Freed memory that the C library keeps would hide new allocations.
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    before = _resident('VmRSS')
    work()
    return _resident('VmHWM') - before


def _resident(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(key))
    return int(line.split()[1]) * 1024


def peak_memory_elsewhere(setup: Setup) -> dict[str, float]:
    """Measure :func:`peak_memory` in a separate process."""
    command = [sys.executable, __file__, json.dumps(asdict(setup))]
    environment = {**os.environ, **MALLOC}
    result = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == '__main__':
    setup = Setup(**json.loads(sys.argv[1]))
    torch.set_num_threads(setup.threads)
    print(json.dumps(peak_memory(Contestant(setup))))
