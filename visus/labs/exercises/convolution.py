"""Lab convolution: a convolutional layer by its definition, forwards and backwards.

A filter is a small window of weights, as deep as the image has channels. It is laid over the image at every place, and
what lies below is multiplied with it and added up:

    out[n, f, i, j] = b[f] + sum over c, p, q of  w[f, c, p, q] * padded[n, c, stride i + p, stride j + q]

`padded` is the image with `padding` rows and columns of zeros on each side. The window fits
(H + 2 padding - KH) // stride + 1 times from top to bottom, and likewise from left to right.

Backwards every output hands its gradient to its window (times w), to its filter (times the window) and to its bias.
Windows overlap: what they hand to one pixel adds up. At the end the padding is cut off.

Loops over images, filters and places are fine here; the lab im2col does the same with one matrix product.

    visus lab check convolution.py
    visus lab show convolution.py

Source: Stanford CS231n, convolutional networks and assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "convolution"


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """How often a window of `kernel` fits along a side of `size`, in steps of `stride`: a whole number."""
    raise NotWritten


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, padding: int) -> tuple[np.ndarray, tuple]:
    """x: [N, C, H, W]; w: [F, C, KH, KW]; b: [F]. Returns out [N, F, OH, OW] and the cache. Hint: np.pad."""
    raise NotWritten


def conv_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dout: [N, F, OH, OW]. Returns dx [N, C, H, W], dw [F, C, KH, KW], db [F].

    Hint: begin with zeros of the shape of the padded image and add to its windows.
    """
    raise NotWritten
