"""Attention behind one function: xformers on CUDA, torch's fused kernel elsewhere, plain under double backward.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

import torch.nn.functional as F
from torch import Tensor, nn

from anyres.networks.layers import Conv
from anyres.plane.shapes import Float

FEW_TOKENS = 64


def attention(
    query: Float[Tensor, "b heads queries d"],
    key: Float[Tensor, "b heads tokens d"],
    value: Float[Tensor, "b heads tokens d"],
    *,
    twice_differentiable: bool = False,
) -> Float[Tensor, "b heads queries d"]:
    """softmax(q k^T / sqrt(d)) v for (b, heads, tokens, d) each; returns (b, heads, tokens of q, d).

    Fused kernels have no second derivative: whatever stands between a picture and a logit under a gradient
    penalty asks for the plain path with `twice_differentiable`.
    """
    # For few tokens a CPU takes longer to start a fused kernel, above all in half precision, than for all of it.
    if twice_differentiable or (not query.is_cuda and query.shape[-2] <= FEW_TOKENS):
        return plain_attention(query, key, value)
    fused = _xformers() if query.is_cuda else None
    if fused is not None:
        # xformers keeps heads behind tokens.
        parts = (part.transpose(1, 2).contiguous() for part in (query, key, value))
        return fused.memory_efficient_attention(*parts).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value)


def plain_attention(
    query: Float[Tensor, "b heads queries d"], key: Float[Tensor, "b heads tokens d"], value: Float[Tensor, "b heads tokens d"]
) -> Float[Tensor, "b heads queries d"]:
    """The textbook form, differentiable any number of times; the reference of the fused ones."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.softmax(dim=-1) @ value


class SelfAttention(nn.Module):
    """Residual self-attention over the places of a map: (b, c, h, w) -> the same. Silent at first."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not split over {heads} heads")
        self.heads = heads
        self.to_qkv = Conv(channels, 3 * channels, kernel=1, bias=False)
        self.out = Conv(channels, channels, kernel=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b c h w"], *, twice_differentiable: bool = False) -> Float[Tensor, "b c h w"]:
        batch, channels, height, width = x.shape
        qkv = self.to_qkv(x).flatten(2).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.transpose(-1, -2).unbind(dim=1)
        mixed = attention(query, key, value, twice_differentiable=twice_differentiable)
        return x + self.out(mixed.transpose(-1, -2).reshape(batch, channels, height, width))


@functools.cache
def _xformers() -> ModuleType | None:
    """Imported at first use, since it costs seconds; None where it is not installed."""
    try:
        import xformers.ops  # noqa: TID251 - the one place
    except ImportError:
        return None
    return xformers.ops
