"""Where a training step makes the host wait for the device, counted on the CPU.

Each wait is a place where Python reads what a kernel computes. On the CPU it costs
nothing, so only these counts tell that someone added one.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from distributed_step import CAPTIONS, KEPT, batch, build
from mmengine.optim import OptimWrapper
from test_methods import METHODS, name_of, text_share
from tiny import TEXT, still, wild
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mmstop.engine import FiniteHook
from mmstop.engine.finite import FiniteOptimWrapper
from mmstop.methods import STOPCLIPViT
from mmstop.registry import MODELS

# PyTorch's operators whose result, or its shape, depends on the values.
READ = {
    '_local_scalar_dense', '_unique2', 'equal', 'masked_select', 'nonzero',
    'unique_consecutive', 'unique_dim',
}  # fmt: skip
# Those without a fixed order on GPUs, which ``--deterministic`` therefore refuses.
UNORDERED = re.compile(
    r'(upsample_\w+|replication_pad\w+|reflection_pad\w+|adaptive_\w+|max_pool3d\w+|'
    r'avg_pool3d\w+|grid_sampler\w+)_backward|kthvalue|median|histc|bincount|put'
)
COPIED = {'cpu', 'numpy', 'tolist'}  # no operator of PyTorch's sees these on the CPU


class _Operators(TorchDispatchMode):
    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix('aten::')
        places = args[1] if name in ('index', 'index_put', 'index_put_') else ()
        if name in READ or any(p is not None and p.dtype == torch.bool for p in places):
            self.waits.append(name)
        sums_floats = name == 'cumsum' and args[0].is_floating_point()
        if UNORDERED.fullmatch(name) or sums_floats:
            self.waits.append(f'unordered {name}')
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch):
    """A context that lists what makes the host wait inside, forward and backward."""
    found: list[str] = []

    @contextmanager
    def listing() -> Iterator[list[str]]:
        with monkeypatch.context() as patch, _Operators(found):
            for name in COPIED:
                patch.setattr(torch.Tensor, name, noting(name))
            yield found

    def noting(name):
        original = getattr(torch.Tensor, name)
        return lambda *args, **kwargs: found.append(name) or original(*args, **kwargs)

    return listing


@pytest.mark.parametrize(
    'read',
    [
        lambda x: x.sum().item(),
        lambda x: int(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: float(x.amax()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: [1] * x.long()[0],
        lambda x: torch.equal(x, x),
        lambda x: 1 if x.sum() > 0 else 0,
    ],
)
def test_every_way_to_read_a_tensor_counts(read, waits):
    with waits() as found:
        read(torch.ones(3))
    assert len(found) == 1


def expected_waits(model):
    """STOP's one for the number of prompts, in each block that makes temporal ones."""
    if not isinstance(model, STOPCLIPViT) or model.temporal is None:
        return []
    twice = 2 if model.checkpoint else 1  # all but the last are computed twice
    return ['tolist'] * (twice * (model.prompted_blocks - 1) + 1)


@pytest.mark.parametrize('method', METHODS, ids=name_of)
def test_a_step_waits_for_the_number_of_prompts_only(method, waits):
    """No operator is one that ``--deterministic`` refuses on GPUs, either, and no mask
    makes attention fall back from the fused kernels to whole scores.
    """
    model = method.build(in_training=True).train()
    video = torch.cat([wild(1, 5), still(1, 5)])
    with waits() as found, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        (model(video).sum() + text_share(model)).backward()
    assert found == expected_waits(model)


def test_text_towers_never_wait(waits):
    tower = MODELS.build(dict(TEXT, trainable='.'))
    tokens = tower.tokenize(CAPTIONS)
    with waits() as found, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        tower(tokens).sum().backward()
    assert not found


@pytest.mark.parametrize(
    'task, before, after',
    [
        # Scores and labels, for the accuracy that MMAction2's heads log.
        ('recognition', [], ['cpu', 'numpy'] * 2),
        ('retrieval', [], []),
        # The ids of the captions, before anything is asked of the device.
        (KEPT, ['cpu', 'numpy'], []),
    ],
)
def test_the_whole_step_of_a_task(task, before, after, waits):
    """It waits once more to decide on the step, and reads the norm with that."""
    model = build(task).train()
    wrapper = OptimWrapper(
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1),
        clip_grad=dict(max_norm=1.0),
    )
    hook = FiniteHook()
    hook.runner = None
    FiniteOptimWrapper.watch(wrapper, hook)
    inputs, samples = batch(task)
    with waits() as found:
        losses = model(inputs, samples, mode='loss')
        loss = losses.get('loss_cls', losses.get('loss_contrastive'))
        wrapper.update_params(loss)
    assert found == [*before, *['tolist'] * 3, *after, 'tolist']
