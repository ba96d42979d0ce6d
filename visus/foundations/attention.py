"""Attention by hand: scaled dot-product and multi-head, forward and backward.

Each query asks all keys, the softmax of the answers weighs the values: out = softmax(Q K^T / sqrt(d)) V. It knows no
order: permuting the keys with their values changes nothing, permuting the queries permutes the output.

Shapes: ... any leading axes, Q queries, K keys, D features, E features of a value; N sequences.

Source: Vaswani et al. 2017, arXiv:1706.03762.
"""

from __future__ import annotations

import numpy as np

from visus.core.errors import UserError
from visus.foundations.layers import Cache, softmax


def attention_forward(q: np.ndarray, k: np.ndarray, v: np.ndarray,
                      allowed: np.ndarray | None = None) -> tuple[np.ndarray, Cache]:
    """softmax(q k^T / sqrt(D)) v. q: [..., Q, D]; k: [..., K, D]; v: [..., K, E]; out: [..., Q, E].

    allowed: booleans that broadcast to [..., Q, K]; a query gives no weight to keys that it may not see.
    """
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if allowed is not None:
        if not np.broadcast_to(allowed, scores.shape).any(axis=-1).all():
            raise UserError("a query that may see no key", where="attention_forward",
                            remedy="Allow at least one key for each query")
        scores = np.where(allowed, scores, -np.inf)
    weights = softmax(scores)
    return weights @ v, (q, k, v, weights)


def attention_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dq, dk, dv. Through the softmax: dscores = weights (dweights - sum of weights dweights)."""
    q, k, v, weights = cache
    dweights = dout @ v.swapaxes(-1, -2)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ dout


def causal_mask(length: int) -> np.ndarray:
    """[length, length]: position i may see 0..i."""
    return np.tril(np.ones((length, length), bool))


def multi_head_attention_forward(x: np.ndarray, context: np.ndarray, w_qkv: np.ndarray, b_qkv: np.ndarray,
                                 w_out: np.ndarray, b_out: np.ndarray, heads: int,
                                 allowed: np.ndarray | None = None) -> tuple[np.ndarray, Cache]:
    """Attention in `heads` subspaces side by side, put together by a last dense layer.

    x: [N, Q, D], the queries; context: [N, K, D], keys and values (x itself: self-attention); w_qkv: [D, 3D], the
    columns for queries, keys and values in this order; b_qkv: [3D]; w_out: [D, D]; b_out: [D]; out: [N, Q, D].
    """
    dim = x.shape[-1]
    if heads < 1 or dim % heads:
        raise UserError(f"{dim} features do not divide into {heads} heads", where="multi_head_attention_forward")
    (wq, wk, wv), (bq, bk, bv) = np.split(w_qkv, 3, axis=1), np.split(b_qkv, 3)
    q, k, v = (_split_heads(a, heads) for a in (x @ wq + bq, context @ wk + bk, context @ wv + bv))
    mixed, cache = attention_forward(q, k, v, allowed)
    joined = _join_heads(mixed)
    return joined @ w_out + b_out, (x, context, w_qkv, w_out, joined, heads, cache)


def multi_head_attention_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, ...]:
    """Returns dx, dcontext, dw_qkv, db_qkv, dw_out, db_out; in self-attention the input gets dx + dcontext."""
    x, context, w_qkv, w_out, joined, heads, inner = cache
    dw_out, db_out = _weight_gradient(joined, dout), dout.sum(axis=(0, 1))
    dq, dk, dv = (_join_heads(d) for d in attention_backward(_split_heads(dout @ w_out.T, heads), inner))
    wq, wk, wv = np.split(w_qkv, 3, axis=1)
    dw_qkv = np.concatenate([_weight_gradient(x, dq), _weight_gradient(context, dk), _weight_gradient(context, dv)],
                            axis=1)
    db_qkv = np.concatenate([d.sum(axis=(0, 1)) for d in (dq, dk, dv)])
    return dq @ wq.T, dk @ wk.T + dv @ wv.T, dw_qkv, db_qkv, dw_out, db_out


def _split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[N, T, D] -> [N, heads, T, D / heads]."""
    n, t, d = x.shape
    return x.reshape(n, t, heads, d // heads).transpose(0, 2, 1, 3)


def _join_heads(x: np.ndarray) -> np.ndarray:
    """[N, heads, T, D / heads] -> [N, T, D]."""
    n, heads, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(n, t, heads * d)


def _weight_gradient(x: np.ndarray, dout: np.ndarray) -> np.ndarray:
    """x^T dout summed over sequences and positions. [N, T, D] and [N, T, M] -> [D, M]."""
    return x.reshape(-1, x.shape[-1]).T @ dout.reshape(-1, dout.shape[-1])
