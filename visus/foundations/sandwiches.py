"""Layers that are always stacked, as one pair each: the caches of the slices between two hands.

Source: the "sandwich" layers of Stanford CS231n, assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.foundations import convolution as C
from visus.foundations import layers as L

Three = tuple[np.ndarray, np.ndarray, np.ndarray]
Five = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def affine_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, L.Cache]:
    """relu(x W + b). x: [N, ...] of D features; w: [D, M]; b: [M]; out: [N, M]."""
    out, affine = L.affine_forward(x, w, b)
    out, active = L.relu_forward(out)
    return out, (affine, active)


def affine_relu_backward(dout: np.ndarray, cache: L.Cache) -> Three:
    """Returns dx, dw, db."""
    affine, active = cache
    return L.affine_backward(L.relu_backward(dout, active), affine)


def affine_batchnorm_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, gamma: np.ndarray, beta: np.ndarray,
                                  running: L.RunningStatistics) -> tuple[np.ndarray, L.Cache]:
    """relu(batchnorm(x W + b)) in training; b has no effect, since the mean is taken off. gamma, beta: [M]."""
    out, affine = L.affine_forward(x, w, b)
    out, norm = L.batchnorm_train(out, gamma, beta, running)
    out, active = L.relu_forward(out)
    return out, (affine, norm, active)


def affine_batchnorm_relu_backward(dout: np.ndarray, cache: L.Cache) -> Five:
    """Returns dx, dw, db, dgamma, dbeta."""
    affine, norm, active = cache
    dout, dgamma, dbeta = L.batchnorm_backward(L.relu_backward(dout, active), norm)
    return *L.affine_backward(dout, affine), dgamma, dbeta


def conv_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1,
                      padding: int = 0) -> tuple[np.ndarray, L.Cache]:
    """relu(x * w + b). x: [N, C, H, W]; w: [F, C, KH, KW]; b: [F]; out: [N, F, OH, OW]."""
    out, conv = C.convolution_forward(x, w, b, stride, padding)
    out, active = L.relu_forward(out)
    return out, (conv, active)


def conv_relu_backward(dout: np.ndarray, cache: L.Cache) -> Three:
    """Returns dx, dw, db."""
    conv, active = cache
    return C.convolution_backward(L.relu_backward(dout, active), conv)


def conv_relu_pool_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1, padding: int = 0,
                           pool: int = 2) -> tuple[np.ndarray, L.Cache]:
    """Max pooling of relu(x * w + b) in windows of `pool`, as far apart. out: [N, F, OH / pool, OW / pool]."""
    out, inner = conv_relu_forward(x, w, b, stride, padding)
    out, pooled = C.max_pool_forward(out, pool, pool)
    return out, (inner, pooled)


def conv_relu_pool_backward(dout: np.ndarray, cache: L.Cache) -> Three:
    """Returns dx, dw, db."""
    inner, pooled = cache
    return conv_relu_backward(C.max_pool_backward(dout, pooled), inner)


def conv_batchnorm_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, gamma: np.ndarray, beta: np.ndarray,
                                running: L.RunningStatistics, stride: int = 1,
                                padding: int = 0) -> tuple[np.ndarray, L.Cache]:
    """relu(spatial batchnorm(x * w + b)) in training. gamma, beta: [F]."""
    out, conv = C.convolution_forward(x, w, b, stride, padding)
    out, norm = L.spatial_batchnorm_train(out, gamma, beta, running)
    out, active = L.relu_forward(out)
    return out, (conv, norm, active)


def conv_batchnorm_relu_backward(dout: np.ndarray, cache: L.Cache) -> Five:
    """Returns dx, dw, db, dgamma, dbeta."""
    conv, norm, active = cache
    dout, dgamma, dbeta = L.spatial_batchnorm_backward(L.relu_backward(dout, active), norm)
    return *C.convolution_backward(dout, conv), dgamma, dbeta
