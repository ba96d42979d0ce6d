"""Scaled dot-product attention, fused; and with its weights in sight where someone asked to see them.

Paper: Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762, equation 1. Every transformer here
attends through `attend`, so that `seen_attention` shows the weights of any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor

_seen: list[Tensor] | None = None  # where weights go; one for the process


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """[B, heads, N, d], [B, heads, M, d], [B, heads, M, e] -> [B, heads, N, e]. bias: added to the scores, anything
    that broadcasts to [B, heads, N, M]. scale: of the scores, 1 / sqrt(d) when None. Fused, which never holds the
    weights, except inside `seen_attention`."""
    if _seen is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return keep_seen(attention_weights(q, k, bias, scale)) @ v


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """What each query takes from each key: [B, heads, N, M], rows that sum to 1. Arguments as of `attend`."""
    scores = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(dim=-1)


def keep_seen(weights: Tensor) -> Tensor:
    """The same weights [B, heads, N, M], which a module made without `attend`; kept inside `seen_attention`."""
    if _seen is not None:
        _seen.append(weights)
    return weights


@contextmanager
def seen_attention() -> Iterator[list[Tensor]]:
    """Inside, attention computes its weights openly and the list collects them, layer after layer, each
    [B, heads, N, M] with its gradient history (B counts windows where attention is within windows). Not for several
    threads at once."""
    global _seen
    outer, _seen = _seen, []
    try:
        yield _seen
    finally:
        _seen = outer
