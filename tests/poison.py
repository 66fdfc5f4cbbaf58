"""Parts of a run that bring NaN and infinity into it."""

import torch
from mmcv.transforms import BaseTransform
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch import nn

from mmstop.registry import HOOKS, MODELS, TRANSFORMS

BANK = 'backbone.temporal.bank.bias'


@TRANSFORMS.register_module()
class PoisonFrames(BaseTransform):
    """Put a NaN into one pixel of one video."""

    def __init__(self, name):
        self.name = name

    def transform(self, results):
        if self.name in results['filename']:
            results['imgs'] = results['imgs'].astype('float32')
            results['imgs'].flat[0] = float('nan')
        return results


@MODELS.register_module()
class PoisonLoss(nn.Module):
    """Cross entropy, infinite in some calls, with the gradients of always."""

    def __init__(self, calls, rank=0):
        super().__init__()
        self.calls, self.rank, self.call = calls, rank, 0

    def forward(self, scores, labels, **kwargs):
        loss = nn.functional.cross_entropy(scores, labels)
        self.call += 1
        spoilt = self.call - 1 in self.calls and get_rank() == self.rank
        return loss + torch.inf if spoilt else loss


@HOOKS.register_module()
class PoisonGradient(Hook):
    """Add to one gradient in some iterations."""

    def __init__(self, iters, value=float('nan')):
        self.iters, self.value = iters, value

    def before_train(self, runner):
        bias = dict(runner.model.named_parameters())[BANK]
        bias.register_hook(lambda g: g + self.value if runner.iter in self.iters else g)


@HOOKS.register_module()
class ChangeLog(Hook):
    """Note what every iteration changed, of weights, optimizer and averages."""

    priority = 'LOWEST'

    def __init__(self):
        self.changed = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = snapshot(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        after = snapshot(runner)
        self.changed.append(
            {name for name in after if not equal(self.before[name], after[name])}
        )


def snapshot(runner):
    states = runner.optim_wrapper.optimizer.state_dict()['state'].values()
    average = [hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model')]
    tensors = dict(
        weights=runner.model.parameters(),
        optimizer=[value for state in states for value in state.values()],
        average=[value for model in average for value in model.state_dict().values()],
    )
    return {name: [v.detach().clone() for v in tensors[name]] for name in tensors}


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))
