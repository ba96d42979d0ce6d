"""Regularisers by hand: prices on weights, a bound on a unit's norm, kinds of dropout, DropConnect.

x [N, D], w [K, D] one row of weights per unit, b [K]; a keep mask is a number array of 0 and 1, or of 0 and 1 / kept
where it is inverted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# SELU's limit for inputs that go to minus infinity (Klambauer et al., Self-Normalizing Neural Networks, 2017)
ALPHA_LIMIT = -1.0507009873554805 * 1.6732632423543772


def l1(w: Array, strength: float) -> tuple[float, Array]:
    """strength * sum |w| and its slope, 0 where w is 0 (Tibshirani 1996)."""
    return strength * float(np.abs(w).sum()), strength * np.sign(w)


def l2(w: Array, strength: float) -> tuple[float, Array]:
    """strength / 2 * sum w^2 and its slope, strength * w (Krogh and Hertz 1991)."""
    return strength / 2 * float((w * w).sum()), strength * w


def elastic_net(w: Array, strength_l1: float, strength_l2: float) -> tuple[float, Array]:
    """The sum of both prices, and of their slopes (Zou and Hastie 2005)."""
    (a, da), (b, db) = l1(w, strength_l1), l2(w, strength_l2)
    return a + b, da + db


def max_norm(w: Array, bound: float) -> Array:
    """Each row, all but the first axis, scaled onto the ball of radius `bound` where it is outside of it."""
    norms = np.sqrt((w.reshape(len(w), -1) ** 2).sum(1))
    factors = np.where(norms > bound, bound / np.maximum(norms, bound), 1.0)
    return w * factors.reshape(-1, *(1,) * (w.ndim - 1))


def channel_mask(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> Array:
    """An inverted mask for maps [N, C, ...] that leaves whole channels out, each with probability `share`: dropout in
    one dimension for [N, C, L], in two for [N, C, H, W] (Tompson et al. 2015)."""
    kept = rng.random(shape[:2]) >= share
    return np.broadcast_to((kept / (1 - share)).reshape(*shape[:2], *(1,) * (len(shape) - 2)), shape)


def alpha_dropout(x: Array, kept: Array, share: float) -> Array:
    """Dropout for SELU networks: units that are left out take SELU's limit, then all are scaled and shifted so that
    inputs of mean 0 and variance 1 keep both (Klambauer et al. 2017, section 3). kept: 0 or 1, the shape of x."""
    q = 1 - share
    scale = (q + ALPHA_LIMIT**2 * q * (1 - q)) ** -0.5
    return scale * (np.where(kept > 0, x, ALPHA_LIMIT) - (1 - q) * ALPHA_LIMIT)


def dropconnect_forward(x: Array, w: Array, b: Array, mask: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """[N, D] -> [N, K]: sample n meets w * mask[n], mask [N, K, D] (Wan et al. 2013, equation 2), and a cache."""
    return np.einsum("nd,kd,nkd->nk", x, w, mask) + b, (x, w, mask)


def dropconnect_backward(upstream: Array, cache: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Slopes of x, w and b from those of the outputs [N, K]: a weight moves by the samples that kept it."""
    x, w, mask = cache
    return (np.einsum("nk,kd,nkd->nd", upstream, w, mask), np.einsum("nk,nd,nkd->kd", upstream, x, mask),
            upstream.sum(0))
