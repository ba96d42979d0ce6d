"""Max pooling as its definition reads, one window at a time: the reference of `max_pool_forward`, and far slower.

x: [N, C, H, W]; windows of `size` x `size` pixels, `stride` apart. Source: Stanford CS231n, assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.foundations.convolution import output_size


def max_pool_naive(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """out[n, c, i, j] = the largest entry of the window that begins at (i stride, j stride). [N, C, OH, OW]."""
    n, channels, h, w = x.shape
    out = np.empty((n, channels, output_size(h, size, stride), output_size(w, size, stride)))
    for index in np.ndindex(out.shape):
        example, channel, i, j = index
        out[index] = x[example, channel, i * stride:i * stride + size, j * stride:j * stride + size].max()
    return out


def max_pool_naive_backward(dout: np.ndarray, x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Each gradient goes to the first entry of its window that is the largest. [N, C, H, W]."""
    dx = np.zeros_like(x)
    for index in np.ndindex(dout.shape):
        example, channel, i, j = index
        window = x[example, channel, i * stride:i * stride + size, j * stride:j * stride + size]
        p, q = divmod(int(window.argmax()), size)
        dx[example, channel, i * stride + p, j * stride + q] += dout[index]
    return dx
