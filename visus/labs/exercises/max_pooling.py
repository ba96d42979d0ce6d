"""Lab max_pooling: of each window the largest entry.

Pooling makes maps smaller and says only what was found, not exactly where: windows of size x size, `stride` apart, each
channel for itself, no weights.

    out[n, c, i, j] = the largest of x[n, c, stride i : stride i + size, stride j : stride j + size]

Backwards the gradient of an output goes to the entry that was the largest, all of it, and nothing to the others. Where
several are equal it goes to the first, in the order of rows. Windows may overlap (size above stride): an entry that
wins twice collects both.

    visus lab check max_pooling.py
    visus lab show max_pooling.py

Source: Stanford CS231n, convolutional networks and assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "max_pooling"


def max_pool_forward(x: np.ndarray, size: int, stride: int) -> tuple[np.ndarray, tuple]:
    """x: [N, C, H, W]. Returns out [N, C, OH, OW], OH = (H - size) // stride + 1, and the cache."""
    raise NotWritten


def max_pool_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Returns dx [N, C, H, W]. Hint: np.argmax gives the first of equals; np.unravel_index its row and column."""
    raise NotWritten


def max_pool_fast(x: np.ndarray, size: int) -> np.ndarray:
    """The forward pass without a loop, for windows that lie side by side (stride = size, which divides H and W).

    Hint: [N, C, H, W] as [N, C, OH, size, OW, size], then a maximum over two axes.
    """
    raise NotWritten
