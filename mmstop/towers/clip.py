"""CLIP's two towers, built from open_clip's blocks and weights.

CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021, https://arxiv.org/abs/2103.00020. open_clip builds the modules
and loads the weights. The forward pass is our own, so that methods can intervene
between the steps and attend to contexts of any length.
"""

import re
from collections.abc import Sequence
from typing import Any, Optional

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from mmstop.errors import ConfigError, typed
from mmstop.registry import MODELS

from .base import Tower, at_least_float32
from .weights import build_clip, checksum, resolve_arch

__all__ = ['CLIPText', 'CLIPTower', 'CLIPViT']

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

    Raises:
        ValueError: ``arch`` is unknown or not a plain ViT, the weights do not belong to
            it, or ``trainable`` matches no parameter.
        FileNotFoundError: ``weights`` is neither a tag of ``arch`` nor a file.
    """

    @typed
    def __init__(
        self, arch: str, weights: Optional[str], trainable: Optional[str] = None
    ) -> None:
        super().__init__()
        self.arch = resolve_arch(arch)
        self.source = weights or 'random'
        self._take(build_clip(self.arch, weights))
        # A checkpoint leaves out only what has not changed since it was loaded here.
        self.brought = {name: checksum(p) for name, p in self.named_parameters()}
        self._freeze(trainable)

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

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        block = self.blocks[i]
        if context is not None and x.shape[-2] == 1:
            out = self._attend_once(i, x.squeeze(-2), context, mask)
            return block.ls_1(block.attn.out_proj(out.unsqueeze(-2)))
        q, k, v = self._qkv(i, x, context)
        mask = mask if mask is None else torch.atleast_2d(mask)
        if mask is not None and mask.dim() > 2:
            # (..., L, M) -> (prod(...), 1, L, M): the heads share it
            mask = mask.expand(*x.shape[:-2], *mask.shape[-2:])
            mask = mask.reshape(-1, 1, *mask.shape[-2:])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.transpose(1, 2).reshape(x.shape)  # concatenate the heads
        return block.ls_1(block.attn.out_proj(out))

    def _attend_once(
        self, i: int, x: Tensor, context: Tensor, mask: Optional[Tensor]
    ) -> Tensor:
        """Attend with one query (..., D) to (..., M, D), before the output projection.

        Each head sums over the context first and then projects that sum once.
        """
        context = self.blocks[i].ln_1(context)
        scores = self._scores(i, x, context)  # (..., heads, M)
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(
                    ~mask, -torch.inf
                )
            scores = scores + mask  # (..., 1, M)
        seen = scores.softmax(-1).to(context.dtype) @ context  # (..., heads, D)
        D, heads = self.width, scores.shape[-2]
        weight = self.blocks[i].attn.in_proj_weight[2 * D :].unflatten(0, (heads, -1))
        out = torch.einsum('...hD,hdD->...hd', seen, weight).flatten(-2)
        return out + self.blocks[i].attn.in_proj_bias[2 * D :]

    def _scores(self, i: int, x: Tensor, context: Tensor) -> Tensor:
        """Score one query against a context: (..., D), (..., M, D) -> (..., heads, M).

        The keys are never projected, since q (W k) equals (q W) k. Their bias adds the
        same amount to all scores of a head, so it cancels in the softmax.

        Args:
            context: tokens after the block's LayerNorm.
        """
        attn, D = self.blocks[i].attn, self.width
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        q = F.linear(self.blocks[i].ln_1(x), weight[:D], bias[:D])
        q = q.unflatten(-1, (attn.num_heads, -1))  # (..., heads, d)
        keys = weight[D : 2 * D].unflatten(0, (attn.num_heads, -1))  # (heads, d, D)
        looks = torch.einsum('...hd,hdD->...hD', q * q.shape[-1] ** -0.5, keys)
        return looks @ context.transpose(-2, -1)

    def _qkv(
        self, i: int, x: Tensor, context: Optional[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to (prod(...), heads, L or M, D / heads)."""
        block = self.blocks[i]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        if context is None or context is x:
            q, k, v = F.linear(block.ln_1(x), weight, bias).chunk(3, dim=-1)
        else:
            D = self.width
            q = F.linear(block.ln_1(x), weight[:D], bias[:D])
            k, v = F.linear(block.ln_1(context), weight[D:], bias[D:]).chunk(2, dim=-1)
        return self._heads(i, q), self._heads(i, k), self._heads(i, v)

    def _heads(self, i: int, x: Tensor) -> Tensor:
        """(..., L, D) -> (prod(...), heads, L, D / heads)."""
        x = x.reshape(-1, *x.shape[-2:])
        return x.unflatten(-1, (self.blocks[i].attn.num_heads, -1)).transpose(1, 2)

    def feed(self, i: int, x: Tensor) -> Tensor:
        block = self.blocks[i]
        return block.ls_2(_mlp(block.mlp, block.ln_2(x)))

    def project(self, x: Tensor) -> Tensor:
        return self.final_norm(x) @ self.projection


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    """Run a block's two linear layers and the activation between them.

    QuickGELU, x * sigmoid(1.702 x), equals silu(1.702 x) / 1.702. The factors are
    folded into the matrix products, which leaves one pass over the wide activations
    instead of three.
    """
    if not isinstance(mlp.gelu, QuickGELU):
        return mlp(x)
    shape, x = x.shape, x.flatten(0, -2)
    up, down = mlp.c_fc, mlp.c_proj
    x = torch.addmm(up.bias, x, up.weight.t(), beta=QUICK, alpha=QUICK)
    x = F.silu(x, inplace=not x.requires_grad)
    return torch.addmm(down.bias, x, down.weight.t(), alpha=1 / QUICK).view(shape)


@MODELS.register_module()
class CLIPViT(CLIPTower):
    """CLIP's video tower: it encodes each frame separately and averages over frames.

    (B, 3, T, H, W) -> (B, E): the mean over frames of the unit-norm projected CLS.
    Images, (B, 3, H, W), count as videos of one frame, here and in all methods.
    ``H`` and ``W`` must match the architecture, and the pixels must be normalised with
    CLIP's mean and standard deviation.

    Args:
        merge: number of patch pairs per frame that every block but the last merges,
            each into one token. This makes the tower faster but approximate; 0 turns
            it off.
        checkpoint: recompute the blocks' activations in the backward pass instead of
            keeping them, which saves memory and costs time.
        arch, weights, trainable: see :class:`CLIPTower`.

    Raises:
        ValueError: ``merge`` is negative or more than half of the patches.
    """

    @typed
    def __init__(
        self,
        arch: str,
        weights: Optional[str],
        trainable: Optional[str] = None,
        merge: int = 0,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(arch, weights, trainable)
        most = self.grid[0] * self.grid[1] // 2
        if not 0 <= merge <= most:
            raise ConfigError(
                f'merge={merge} is outside [0, {most}], half of the patches of '
                f'{self.arch}'
            )
        self._merge = merge
        self._checkpoint = checkpoint

    @property
    def merge(self) -> int:
        return self._merge

    @property
    def checkpoint(self) -> bool:
        return self._checkpoint

    def _take(self, clip: Any) -> None:
        self.visual: Any = clip.visual

    @property
    def blocks(self) -> Any:
        return self.visual.transformer.resblocks

    @property
    def final_norm(self) -> nn.LayerNorm:
        return self.visual.ln_post

    @property
    def projection(self) -> nn.Parameter:
        return self.visual.proj

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's patches."""
        return self.visual.grid_size

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the tokens after ``ln_pre``: (B, 3, T, H, W) -> (B, T, 1 + N, D).

        Images, (B, 3, H, W), count as videos of one frame.

        Raises:
            ValueError: the frames do not have the size that the tower was built for.
        """
        self._check(inputs)
        if inputs.dim() == 4:
            inputs = inputs.unsqueeze(2)
        B, _, T = inputs.shape[:3]
        frames = inputs.transpose(1, 2).flatten(0, 1)
        x = self.visual.conv1(frames).flatten(2).transpose(1, 2)  # (BT, N, D)
        cls = self.visual.class_embedding.expand(B * T, 1, -1).to(x)
        x = torch.cat([cls, x], dim=1) + self.visual.positional_embedding
        return self.visual.ln_pre(x).unflatten(0, (B, T))

    def _check(self, video: Tensor) -> None:
        size = tuple(self.visual.image_size)
        if video.dim() not in (4, 5) or video.shape[1] != 3 or video.shape[2] < 1:
            raise ValueError(
                f'got a video of shape {tuple(video.shape)}, expected (B, 3, T, H, W) '
                f'with T >= 1, or images (B, 3, H, W); end a video pipeline with '
                f"FormatShape(input_format='NCTHW')"
            )
        if tuple(video.shape[-2:]) != size:
            raise ConfigError(
                f'got frames of {tuple(video.shape[-2:])} pixels, {self.arch} was '
                f'built for {size}; resize and crop to {size} in the pipeline, or '
                f'choose an architecture with another image size'
            )

    def read(self, x: Tensor) -> Tensor:
        """Select CLS: (..., L, D) -> (..., 1, D)."""
        return x[..., :1, :]

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Average the unit-norm projected CLS over frames: (B, T, L, D) -> (B, E)."""
        return F.normalize(self.project(x[:, :, 0]), dim=-1).mean(dim=1)

    def cls_attention(self, i: int, x: Tensor) -> Tensor:
        N = self.grid[0] * self.grid[1]
        scores = self._scores(i, x[..., 0, :], self.blocks[i].ln_1(x[..., -N:, :]))
        return at_least_float32(scores).softmax(-1).mean(-2)  # over heads


@MODELS.register_module()
class CLIPText(CLIPTower):
    """CLIP's text tower: (B, L) token ids -> (B, E), with L up to the context length.

    ``logit_scale`` is the logarithm of CLIP's learned inverse temperature, Eq. 14.
    """

    def _take(self, clip: Any) -> None:
        self.transformer: Any = clip.transformer
        self.token_embedding: nn.Embedding = clip.token_embedding
        self.positional_embedding: nn.Parameter = clip.positional_embedding
        self.ln_final: nn.LayerNorm = clip.ln_final
        self.text_projection: nn.Parameter = clip.text_projection
        self.logit_scale: nn.Parameter = clip.logit_scale
        self.tokenizer = open_clip.get_tokenizer(self.arch)

    @property
    def blocks(self) -> Any:
        return self.transformer.resblocks

    @property
    def final_norm(self) -> nn.LayerNorm:
        return self.ln_final

    @property
    def projection(self) -> nn.Parameter:
        return self.text_projection

    @property
    def context_length(self) -> int:
        """The maximum number of tokens in a text."""
        return self.positional_embedding.shape[0]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokenise to the length of the longest text: K texts -> (K, L), int64.

        Attention is causal and the embedding is read at the end token, so padding after
        the longest text would change nothing and is left out.

        Raises:
            ValueError: a text has more tokens than the tower has positions.
        """
        ids = [self.tokenizer.encode(text) for text in texts]
        room = self.context_length - 2  # start and end of text
        for text, tokens in zip(texts, ids):
            if len(tokens) > room:
                raise ConfigError(
                    f'{text!r} has {len(tokens)} tokens, {self.arch} has room for '
                    f'{room}; shorten the text or its template'
                )
        length = max(len(tokens) for tokens in ids) + 2
        return self.tokenizer(list(texts), context_length=length)

    def embed(self, inputs: Tensor) -> Tensor:
        x = self.token_embedding(inputs)
        return x + self.positional_embedding[: inputs.shape[1]]

    def attend(
        self,
        i: int,
        x: Tensor,
        context: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Run the attention branch, causally unless a mask is given.

        In a longer context, the queries are its last tokens.
        """
        if mask is None:
            L, M = x.shape[-2], (x if context is None else context).shape[-2]
            mask = torch.ones(L, M, dtype=torch.bool, device=x.device).tril(M - L)
        return super().attend(i, x, context, mask)

    def pool(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Read the projected end token: (B, L, D) -> (B, E), not normalised."""
        # The end token has the largest id of CLIP's vocabulary.
        end = inputs.argmax(dim=-1)
        # Not len(x), which ONNX export would turn into a constant.
        return self.project(x[torch.arange(x.shape[0], device=x.device), end])
