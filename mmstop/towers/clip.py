"""What CLIP's two towers share, built from open_clip's blocks and weights.

CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021, https://arxiv.org/abs/2103.00020. open_clip builds the modules
and loads the weights. The forward pass is our own, so that methods can intervene
between the steps and attend to contexts of any length.
"""

import re
from typing import Any, Optional

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed

from .base import Tower
from .lora import LowRank, check_lora
from .weights import build_clip, checksum, resolve_arch

__all__ = ['CLIPTower']

QUICK = 1.702  # the factor in CLIP's QuickGELU


class CLIPTower(Tower):
    """Base class of both towers: freezing, the blocks' two branches, the projection.

    All parameters are frozen except those whose name matches ``trainable``. Loading a
    ``state_dict`` without the frozen parameters is not an error, since the constructor
    has already loaded them.

    Args:
        arch: open_clip's name, e.g. 'ViT-B-32-quickgelu', or the path of a JSON file
            with an architecture in open_clip's format.
        weights: an open_clip tag, e.g. 'openai'; the path of a weights file (OpenAI's
            ``.pt`` archive, open_clip's ``.pt`` or ``.safetensors``); or 'mmstop' for
            the weights that ship with this package. None gives random weights, which
            are the same every time.
        trainable: regular expression searched for in the tower's parameter names.
        lora: dict(rank=8, layers=('qkv',)) for low-rank updates of these layers in
            every block: 'qkv', 'out', 'up' or 'down' (:mod:`mmstop.towers.lora`).

    Raises:
        ValueError: ``arch`` is unknown or not a plain ViT, the weights do not belong to
            it, ``trainable`` matches no parameter, or ``lora`` is invalid.
        FileNotFoundError: ``weights`` is neither a tag of ``arch`` nor a file.
    """

    # Whether a token attends only to those up to itself, unless a mask is given. In a
    # longer context, the queries are its last tokens.
    causal = False

    @typed
    def __init__(
        self,
        arch: str,
        weights: Optional[str],
        trainable: Optional[str] = None,
        lora: Optional[dict] = None,
    ) -> None:
        super().__init__()
        self.arch = resolve_arch(arch)
        self.source = weights or 'random'
        self._take(build_clip(self.arch, weights))
        # A checkpoint leaves out only what has not changed since it was loaded here.
        self.brought = {name: checksum(p) for name, p in self.named_parameters()}
        self._freeze(trainable)
        self.softmax = nn.Softmax(dim=-1)
        self.lora: Any = nn.ModuleDict()
        if lora is not None:
            for layer in check_lora(**lora):
                shapes = [self._weight(i, layer).shape for i in range(self.depth)]
                self.lora[layer] = nn.ModuleList(
                    LowRank(shape, lora['rank']) for shape in shapes
                )

    def _take(self, clip: Any) -> None:
        """Keep the modules of ``clip`` that this tower needs."""
        raise NotImplementedError

    @property
    def blocks(self) -> Any:
        raise NotImplementedError

    @property
    def final_norm(self) -> nn.LayerNorm:
        raise NotImplementedError

    @property
    def projection(self) -> nn.Parameter:
        """Matrix (D, E) into the joint embedding."""
        raise NotImplementedError

    def _freeze(self, trainable: Optional[str]) -> None:
        names = [name for name, _ in self.named_parameters()]
        if trainable is not None and not any(re.search(trainable, n) for n in names):
            raise ConfigError(
                f'trainable={trainable!r} matches no parameter of the {self.arch} '
                f'{type(self).__name__}; names look like {names[:3]}'
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(bool(trainable and re.search(trainable, name)))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        # Checkpoints hold the trained parameters; the frozen ones are already here.
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                state_dict.setdefault(prefix + name, parameter.detach())
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def width(self) -> int:
        return self.final_norm.normalized_shape[0]

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def out_dim(self) -> int:
        return self.projection.shape[1]

    def normalize(self, i: int, x: Tensor) -> Tensor:
        return self.blocks[i].ln_1(x)

    def normalize_mlp(self, i: int, x: Tensor) -> Tensor:
        return self.blocks[i].ln_2(x)

    def attend_normalized(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        if context is not None and x.shape[-2] == 1:
            out = self._attend_once(i, x.squeeze(-2), context, mask).unsqueeze(-2)
            return self._put_out(i, out)
        q, k, v = self._qkv(i, x, context)
        L, M = q.shape[-2], k.shape[-2]
        causal = self.causal and mask is None
        if causal and L != M:
            ones = torch.ones(L, M, dtype=torch.bool, device=x.device)
            mask, causal = ones.tril(M - L), False
        mask = mask if mask is None else torch.atleast_2d(mask)
        if mask is not None and mask.dim() > 2:
            # (..., L, M) -> (prod(...), 1, L, M): the heads share it
            mask = mask.expand(*x.shape[:-2], *mask.shape[-2:])
            mask = mask.reshape(-1, 1, *mask.shape[-2:])
        # A flag rather than a mask: fused kernels then skip what it hides.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        out = out.transpose(1, 2).reshape(x.shape)  # concatenate the heads
        return self._put_out(i, out)

    def _put_out(self, i: int, out: Tensor) -> Tensor:
        """Project the concatenated heads: (..., D)."""
        block = self.blocks[i]
        return block.ls_1(
            F.linear(out, self._weight(i, 'out'), block.attn.out_proj.bias)
        )

    def _weight(self, i: int, layer: str, rows: slice = slice(None)) -> Tensor:
        """Return rows of a layer's weights in block ``i``, with LoRA's if it has them.

        The rows of 'qkv' are those of queries, keys and values, D each.
        """
        block = self.blocks[i]
        weight = {
            'qkv': block.attn.in_proj_weight,
            'out': block.attn.out_proj.weight,
            'up': block.mlp.c_fc.weight,
            'down': block.mlp.c_proj.weight,
        }[layer][rows]
        return self.lora[layer][i](weight, rows) if layer in self.lora else weight

    def _attend_once(
        self, i: int, x: Tensor, context: Tensor, mask: Optional[Tensor]
    ) -> Tensor:
        """Attend with one query (..., D) to (..., M, D), before the output projection.

        Each head sums over the context first and then projects that sum once.
        """
        scores = self._scores(i, x, context)  # (..., heads, M)
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(
                    ~mask, -torch.inf
                )
            scores = scores + mask  # (..., 1, M)
        # A module, so that PyTorch's forward hooks see the weights.
        seen = self.softmax(scores).to(context.dtype) @ context  # (..., heads, D)
        D, heads = self.width, scores.shape[-2]
        values = self._weight(i, 'qkv', slice(2 * D, None)).unflatten(0, (heads, -1))
        out = torch.einsum('...hD,hdD->...hd', seen, values).flatten(-2)
        return out + self.blocks[i].attn.in_proj_bias[2 * D :]

    def _scores(self, i: int, x: Tensor, context: Tensor) -> Tensor:
        """Score one query against a context: (..., D), (..., M, D) -> (..., heads, M).

        The keys are never projected, since q (W k) equals (q W) k. Their bias adds the
        same amount to all scores of a head, so it cancels in the softmax. Both inputs
        have passed the block's LayerNorm.
        """
        attn, D = self.blocks[i].attn, self.width
        weight, bias = self._weight(i, 'qkv', slice(2 * D)), attn.in_proj_bias
        q = F.linear(x, weight[:D], bias[:D])
        q = q.unflatten(-1, (attn.num_heads, -1))  # (..., heads, d)
        keys = weight[D:].unflatten(0, (attn.num_heads, -1))  # (heads, d, D)
        looks = torch.einsum('...hd,hdD->...hD', q * q.shape[-1] ** -0.5, keys)
        return looks @ context.transpose(-2, -1)

    def mean_keys(self, i: int, x: Tensor) -> Tensor:
        attn, D = self.blocks[i].attn, self.width
        # The mean over heads of the keys is one projection with the mean weights.
        keys = slice(D, 2 * D)
        weight = self._weight(i, 'qkv', keys).unflatten(0, (attn.num_heads, -1))
        bias = attn.in_proj_bias[keys].unflatten(0, (attn.num_heads, -1))
        return F.linear(self.normalize(i, x), weight.mean(0), bias.mean(0))

    def _qkv(
        self, i: int, x: Tensor, context: Optional[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to (prod(...), heads, L or M, D / heads)."""
        weight, bias = self._weight(i, 'qkv'), self.blocks[i].attn.in_proj_bias
        if context is None:
            q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
        else:
            D = self.width
            q = F.linear(x, weight[:D], bias[:D])
            k, v = F.linear(context, weight[D:], bias[D:]).chunk(2, dim=-1)
        return self._heads(i, q), self._heads(i, k), self._heads(i, v)

    def _heads(self, i: int, x: Tensor) -> Tensor:
        """(..., L, D) -> (prod(...), heads, L, D / heads)."""
        x = x.reshape(-1, *x.shape[-2:])
        return x.unflatten(-1, (self.blocks[i].attn.num_heads, -1)).transpose(1, 2)

    def feed(self, i: int, x: Tensor) -> Tensor:
        block = self.blocks[i]
        weights = self._weight(i, 'up'), self._weight(i, 'down')
        return block.ls_2(_mlp(block.mlp, *weights, self.normalize_mlp(i, x)))

    def project(self, x: Tensor) -> Tensor:
        return self.final_norm(x) @ self.projection


def _mlp(mlp: Any, up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    """Run a block's two linear layers and the activation between them.

    QuickGELU, x * sigmoid(1.702 x), equals silu(1.702 x) / 1.702. The factors are
    folded into the matrix products, which leaves one pass over the wide activations
    instead of three.
    """
    if not isinstance(mlp.gelu, QuickGELU):
        return F.linear(mlp.gelu(F.linear(x, up, mlp.c_fc.bias)), down, mlp.c_proj.bias)
    shape, x = x.shape, x.flatten(0, -2)
    x = torch.addmm(mlp.c_fc.bias, x, up.t(), beta=QUICK, alpha=QUICK)
    x = F.silu(x, inplace=not x.requires_grad)
    return torch.addmm(mlp.c_proj.bias, x, down.t(), alpha=1 / QUICK).view(shape)
