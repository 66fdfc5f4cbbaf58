"""Towers that take turns with open_clip's plain frozen one: time, memory, work."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from measuring import added_mb, alone, rounds
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmstop.errors import ConfigError
from mmstop.methods import STOPCLIPViT
from mmstop.registry import MODELS
from mmstop.towers import CLIPTower, TunedTower
from mmstop.towers.weights import build_clip, resolve_arch

REFERENCE = 'open_clip'
JOINT, FRAME = dict(type='STOPCLIPViT'), dict(type='STOPCLIPViT', attention='frame')
MERGED, MERGED_8, MERGED_16 = (
    dict(clip=dict(type='CLIPViT', merge=pairs)) for pairs in (4, 8, 16)
)
METHODS: dict[str, dict] = {  # name -> config of the video tower, without its arch
    REFERENCE: dict(type=REFERENCE),
    'clip': dict(type='CLIPViT'),
    'stop-joint': JOINT,
    'stop-frame': FRAME,
    'stop-joint-merge': dict(JOINT, **MERGED),
    'stop-joint-merge-8': dict(JOINT, **MERGED_8),
    'stop-joint-merge-16': dict(JOINT, **MERGED_16),
    'stop-joint-merge-8-frames': dict(JOINT, merge_frames=3, **MERGED_8),
    'stop-joint-merge-16-frames': dict(JOINT, merge_frames=3, **MERGED_16),
    # What the parts cost: attention over all frames, and each prompter on top of it.
    'joint-attention': dict(JOINT, num_spatial=0, temporal_scale=0),
    'stop-joint-spatial': dict(JOINT, temporal_scale=0),
    'stop-joint-temporal': dict(JOINT, num_spatial=0),
    # Prompts at the input only.
    'stop-joint-input': dict(JOINT, depth=1),
    'stop-frame-input': dict(FRAME, depth=1),
    'stop-joint-merge-input': dict(JOINT, depth=1, **MERGED),
}
DEFAULT_ARCH = 'ViT-B-32-quickgelu'
WORKS = ('forward', 'step')


class Setup(NamedTuple):
    """The size of the problem, and where it is solved."""

    arch: str
    frames: int
    batch: int
    device: str = 'cpu'
    dtype: str = 'float32'


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
