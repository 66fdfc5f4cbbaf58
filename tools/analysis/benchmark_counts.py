"""Count the machine-independent costs of a tower: parameters, tokens, prompts, MACs.

This is the part of tools/analysis/benchmark.py that needs no clock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from benchmark_model import Contestant
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmstop.methods import STOPCLIPViT
from mmstop.towers import CLIPViT


class Call(NamedTuple):
    """One call of a block's attention."""

    sequences: int
    queries: int
    keys: int
    hidden: int  # keys masked for all queries, summed over sequences


def describe(contestant: Contestant) -> dict:
    """Return all counts of a contestant."""
    model, setup = contestant.model.eval(), contestant.setup
    with attention_calls(model) as calls:
        contestant.forward()
    keys = sum(call.sequences * call.keys for call in calls)
    sequences = calls[0].sequences
    return {
        'trainable_parameters': sum(p.numel() for p in contestant.trained),
        'gradient_to': 'parameters' if contestant.trained else 'inputs',
        'gmacs_per_video': count_macs(contestant) / setup.batch / 1e9,
        'tokens': {
            'per': 'video' if sequences == setup.batch else 'frame',
            'queries': [call.queries for call in calls],
            'keys': [call.keys for call in calls],
            'mean_keys': float(np.mean([call.keys for call in calls])),
            'padding': sum(call.hidden for call in calls) / keys,
        },
        'temporal_prompts': count_prompts(contestant),
    }


def count_prompts(contestant: Contestant) -> Optional[list[float]]:
    """Count the temporal prompts of each video; None without STOP.

    If several blocks have their own prompts, this is the mean over these blocks.
    """
    for module in contestant.model.modules():
        if isinstance(module, STOPCLIPViT):
            counts = [t.num_prompts.sum(1) for t in module.traces(contestant.video)]
            return torch.stack(counts).double().mean(0).tolist()
    return None


def count_macs(contestant: Contestant) -> float:
    """Count the multiply-adds of one forward pass, in matrices and convolutions.

    PyTorch's counter would miss two CPU kernels: attention, for which it has a formula
    only on GPUs, and the fused kernel for nn.MultiheadAttention in inference.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=formulas) as mode:
            contestant.forward()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return mode.get_total_flops() / 2


@contextmanager
def attention_calls(model: nn.Module) -> Iterator[list[Call]]:
    """Record how many tokens every block's attention sees."""
    calls: list[Call] = []
    inner: Any = next((m for m in model.modules() if isinstance(m, CLIPViT)), None)
    if inner is None:  # open_clip's own
        hooks = [
            module.register_forward_pre_hook(
                lambda _, given: calls.append(_call(*given[:2], None))
            )
            for module in model.modules()
            if isinstance(module, nn.MultiheadAttention)
        ]
        yield calls
        for hook in hooks:
            hook.remove()
        return
    attend = inner.attend

    def recorded(
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        calls.append(_call(x, x if context is None else context, mask))
        return attend(i, x, context, mask)

    inner.attend = recorded
    yield calls
    del inner.attend  # restore the class's method


def _call(x: Tensor, context: Tensor, mask: Optional[Tensor]) -> Call:
    sequences, L, M = x[..., 0, 0].numel(), x.shape[-2], context.shape[-2]
    hidden = 0
    if mask is not None:
        seen = mask if mask.dtype == torch.bool else ~mask.isneginf()
        seen = seen.any(-2).expand(*x.shape[:-2], M)
        hidden = int((~seen).sum())
    return Call(sequences, L, M, hidden)
