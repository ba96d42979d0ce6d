"""Checks of the lab attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import attention as A
from visus.foundations.layers import softmax
from visus.labs.contract import (
    Case,
    Digits,
    Fact,
    Inputs,
    Lab,
    Mistake,
    Module,
    Part,
    Shown,
    Tiles,
    through,
    without_cache,
)

Array = np.ndarray


def _mixed(q: Array, k: Array, v: Array, *, scale: float = -0.5, axis: int = -1, shift: bool = True) -> Array:
    """The right answer, or with its switches the mistakes."""
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** scale
    if shift:
        scores = scores - scores.max(axis=axis, keepdims=True)
    e = np.exp(scores)
    return e / e.sum(axis=axis, keepdims=True) @ v


def _back(q: Array, k: Array, v: Array, dout: Array, *, centre: bool = True, scale: bool = True,
          weigh: bool = True) -> tuple[Any, ...]:
    weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    dweights = dout @ v.swapaxes(-1, -2)
    ds = dweights - ((weights * dweights).sum(axis=-1, keepdims=True) if centre else 0)
    ds = (weights * ds if weigh else ds) / (np.sqrt(q.shape[-1]) if scale else 1)
    return ds @ k, ds.swapaxes(-1, -2) @ q, None


def _causal(q: Array, k: Array, v: Array, offset: int = 0, zero: bool = False, upper: bool = False) -> Array:
    length = q.shape[1]
    allowed = np.tril(np.ones((length, length), bool), offset)
    if upper:
        allowed = allowed.T
    if zero:
        return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) * allowed) @ v
    return A.attention_forward(q, k, v, allowed)[0]


def _after(q: Array, k: Array, v: Array) -> Array:
    """Weights set to 0 after the softmax."""
    weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    return np.tril(weights) @ v


def _heads(q: Array, k: Array, v: Array, heads: int, *, whole: bool = False, interleaved: bool = False,
           joined: bool = True) -> Array:
    def split(a: Array) -> Array:
        n, t, d = a.shape
        if interleaved:
            return a.reshape(n, t, d // heads, heads).transpose(0, 3, 1, 2)
        return a.reshape(n, t, heads, d // heads).transpose(0, 2, 1, 3)

    out = A.attention_forward(split(q) / (np.sqrt(heads) if whole else 1), split(k), split(v))[0]
    if not joined:
        return out.reshape(q.shape)
    return (out.transpose(0, 2, 3, 1) if interleaved else out.transpose(0, 2, 1, 3)).reshape(q.shape)


def _make(n: int, queries: int, keys: int, d: int, e: int, *, dout: bool = False,
          scale: float = 1.0, **more: int) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"q": scale * rng.normal(size=(n, queries, d)), "k": scale * rng.normal(size=(n, keys, d)),
                  "v": rng.normal(size=(n, keys, e)), **more}
        return inputs | ({"dout": rng.normal(size=(n, queries, e))} if dout else {})

    return make


def _draw(my: Module, digits: Digits) -> Shown:
    image = digits.train[0][0]
    rows = image[None]  # [1, 8, 8]: a row of pixels is a token

    def weights(attend: Callable[..., Array]) -> Array:
        return np.asarray(attend(6 * rows, rows, np.eye(8)[None]))[0]

    plain = weights(lambda q, k, v: my.attention_forward(q, k, v)[0])
    causal = weights(my.causal_attention)
    order = np.random.Generator(np.random.PCG64(0)).permutation(8)
    one, other = (my.attention_forward(rows, rows[:, o], rows[:, o])[0] for o in (np.arange(8), order))
    moved = float(np.abs(one - other).max())
    ahead = float(np.abs(np.triu(causal, 1)).max())
    return Shown(
        "The rows of a digit as tokens that attend to each other through your functions. With the identity for values, "
        "what comes out are the weights.",
        (Tiles("Who attends to whom", "Rows of the map: queries; columns: keys. Rows of the image that look alike "
               "attend to "
               "each other; with the causal mask nothing stands right of the diagonal.",
               [("image", image), ("weights", plain), ("causal", causal)]),),
        (Fact("sum of each row of weights", f"{plain.sum(axis=1).min():.6f} to {plain.sum(axis=1).max():.6f}", "1",
              bool(np.allclose(plain.sum(axis=1), 1))),
         Fact("largest weight that looks ahead", f"{ahead:.1e}", "0", ahead == 0),
         Fact("change when keys and values are permuted together", f"{moved:.1e}", "0 but for rounding",
              moved < 1e-12)))


LAB = Lab(
    name="attention", number=19, title="Attention", teaches="scaled dot products, the softmax backwards, masks, heads",
    source="Vaswani et al. 2017; Stanford CS231n, assignment 3",
    parts=(
        Part(name="attention_forward", outputs=("out",), cached=True, right=without_cache(A.attention_forward),
             cases=(Case("2 x 3 queries, 4 keys", _make(2, 3, 4, 5, 6)), Case("1 x 4 queries, 4 keys", _make(1, 4, 4,
                                                                                                             4, 4)),
                    Case("scores near 1,000", _make(1, 3, 4, 5, 2, scale=50.0))),
             mistakes=(Mistake("The scores are not divided by sqrt(D)", partial(_mixed, scale=0.0)),
                       Mistake("The scores are divided by D: by its root", partial(_mixed, scale=-1.0)),
                       Mistake("The softmax runs over queries: over keys, the last axis", lambda *i: _mixed(*i,
                                                                                                            axis=-2)),
                       Mistake("e^s overflows: take the largest score of each row off first",
                               partial(_mixed, shift=False)))),
        Part(name="attention_backward", outputs=("dq", "dk", "dv"), forward="attention_forward",
             right=through(A.attention_forward, A.attention_backward),
             cases=(Case("2 x 3 queries, 4 keys", _make(2, 3, 4, 5, 6, dout=True), {5 ** 0.5: "sqrt(D)"}),
                    Case("1 x 4 queries, 4 keys", _make(1, 4, 4, 4, 4, dout=True), {2: "sqrt(D)"})),
             mistakes=(Mistake("The sum in the softmax's gradient is missing: p (dp - sum of p dp)",
                               partial(_back, centre=False)),
                       Mistake("The division by sqrt(D) is missing on the way back", partial(_back, scale=False)),
                       Mistake("The softmax's gradient is not weighted: p (dp - sum of p dp)",
                               partial(_back, weigh=False)),
                       Mistake("dv is dout weighted by the values: weights^T dout", lambda q, k, v, d: (
                           None, None, _mixed(k, q, d))))),
        Part(name="causal_attention", outputs=("out",), right=_causal,
             cases=(Case("2 sequences of 4 steps", _make(2, 4, 4, 5, 3)),),
             mistakes=(Mistake("The mask is missing: each query sees all keys", lambda *i: A.attention_forward(*i)[0]),
                       Mistake("The mask is off by one: query t sees key t too, and none after it",
                               partial(_causal, offset=1)),
                       Mistake("The mask is the other way round: it hides the past", partial(_causal, upper=True)),
                       Mistake("Hidden scores are 0, which is a score like others: -infinity",
                               partial(_causal, zero=True)),
                       Mistake("The mask comes after the softmax: rows no longer add up to 1", _after))),
        Part(name="multi_head", outputs=("out",), right=_heads,
             cases=(Case("2 x 3 queries, 4 keys, 6 features, 2 heads", _make(2, 3, 4, 6, 6, heads=2)),
                    Case("1 x 4 queries, 4 keys, 6 features, 3 heads", _make(1, 4, 4, 6, 6, heads=3))),
             mistakes=(Mistake("The scores are divided by sqrt(D): by the root of a head's features, sqrt(D / heads)",
                               partial(_heads, whole=True)),
                       Mistake("A head takes neighbouring features, not every heads-th one",
                               partial(_heads, interleaved=True)),
                       Mistake("The heads are reshaped as they are: move them beside the features with a transpose "
                               "first",
                               partial(_heads, joined=False)),
                       Mistake("This is attention with one head", lambda q, k, v, heads: A.attention_forward(q, k,
                                                                                                             v)[0]))),
    ),
    draw=_draw)
