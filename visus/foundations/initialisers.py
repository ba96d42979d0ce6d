"""How weights begin: each function takes a random generator and a shape, and gives an array.

Too small, and the signal dies on its way through the layers; too large, and it saturates or explodes; all equal, and
all units stay equal for ever. The rules that work keep the variance of the signal: for y = sum of n terms w x it is n
Var(w) Var(x), so that Var(w) = 1 / n forwards, 1 / m backwards, and twice that where a ReLU drops half of it.

Shapes: a dense layer [D, M] (x W); a convolution [F, C, KH, KW].

Sources: Glorot and Bengio 2010; He et al. 2015, arXiv:1502.01852; Saxe et al. 2014, arXiv:1312.6120; Martens 2010
(sparse).
"""

from __future__ import annotations

import math

import numpy as np

from visus.core.errors import UserError

Shape = tuple[int, ...]


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out): how many terms are summed in one output, and how many outputs one input reaches."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) < 3:
        raise UserError(f"weights of shape {shape} have no fans", where="fans",
                        remedy="A dense layer is [D, M], a convolution [F, C, KH, KW]")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def zeros(shape: Shape) -> np.ndarray:
    """All zero: right for biases; a hidden layer of equal weights never breaks its symmetry."""
    return np.zeros(shape)


def small_random(rng: np.random.Generator, shape: Shape, scale: float = 0.01) -> np.ndarray:
    """N(0, scale^2): breaks the symmetry, but the signal shrinks with every layer."""
    return scale * rng.standard_normal(shape)


def xavier_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """N(0, 2 / (fan_in + fan_out)): the compromise between the way forth and the way back, for tanh."""
    return math.sqrt(2 / sum(fans(shape))) * rng.standard_normal(shape)


def xavier_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """The same variance, uniform: U(-a, a) with a = sqrt(6 / (fan_in + fan_out))."""
    bound = math.sqrt(6 / sum(fans(shape)))
    return rng.uniform(-bound, bound, shape)


def calibrated(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """N(0, 1 / fan_in): every unit starts with the variance of its inputs."""
    return rng.standard_normal(shape) / math.sqrt(fans(shape)[0])


def kaiming_normal(rng: np.random.Generator, shape: Shape, slope: float = 0.0) -> np.ndarray:
    """N(0, 2 / ((1 + slope^2) fan_in)): a ReLU of that negative slope keeps (1 + slope^2) / 2 of the power."""
    return math.sqrt(2 / ((1 + slope ** 2) * fans(shape)[0])) * rng.standard_normal(shape)


def kaiming_uniform(rng: np.random.Generator, shape: Shape, slope: float = 0.0) -> np.ndarray:
    """The same variance, uniform: U(-a, a) with a = sqrt(6 / ((1 + slope^2) fan_in))."""
    bound = math.sqrt(6 / ((1 + slope ** 2) * fans(shape)[0]))
    return rng.uniform(-bound, bound, shape)


def orthogonal(rng: np.random.Generator, shape: Shape, gain: float = 1.0) -> np.ndarray:
    """A random (semi-)orthogonal matrix: the first axis against all others; no direction grows or shrinks.

    Q of a QR decomposition of Gaussian numbers, its signs fixed so that all orthogonal matrices are equally likely.
    """
    if len(shape) < 2:
        raise UserError(f"a shape {shape} has no rows and columns", where="orthogonal")
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return gain * (q if rows >= columns else q.T).reshape(shape)


def sparse(rng: np.random.Generator, shape: Shape, connections: int = 15, scale: float = 1.0) -> np.ndarray:
    """Each output of a dense layer [D, M] is connected to `connections` inputs drawn at random, weights N(0, scale^2).

    The number of terms is fixed, so the signal's size does not depend on the layer's width.
    """
    if len(shape) != 2 or not 0 < connections <= shape[0]:
        raise UserError(f"{connections} connections into weights of shape {shape}", where="sparse",
                        remedy="A dense layer [D, M] takes 1 to D")
    out = np.zeros(shape)
    chosen = rng.permuted(np.tile(np.arange(shape[0]), (shape[1], 1)), axis=1)[:, :connections]  # [M, connections]
    out[chosen, np.arange(shape[1])[:, None]] = scale * rng.standard_normal(chosen.shape)
    return out
