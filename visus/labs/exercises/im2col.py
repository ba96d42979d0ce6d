"""Lab im2col: the same convolution as one matrix product.

A convolution multiplies every window with every filter. Write the windows beside each other as the columns of a matrix,
[C KH KW, N OH OW], and the filters as the rows of another, [F, C KH KW]: then all of it is one matrix product, and that
is what processors are best at. A pixel stands in many columns; memory is paid for time.

Backwards, a matrix product is again a matrix product, and the columns are put back to where their windows lay. Where
windows overlap, what they bring adds up: this is not the inverse of im2col but its transpose.

The order is fixed, so that your columns can be compared: a column lists its window by channel, then row, then column of
the window; columns run over images, then rows, then columns of the output.

    visus lab check im2col.py            times it against plain loops, too
    visus lab show im2col.py

Source: Chellapilla et al. 2006; Stanford CS231n, convolutional networks and assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "im2col"


def im2col(x: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """Every window of the padded images as a column. x: [N, C, H, W]; returns [C K K, N OH OW].

    Hints: no loop over images or places. Two loops over the K x K places within the window are enough: what stands at
    place (p, q) of all windows is padded[:, :, p:p + stride * OH:stride, q:q + stride * OW:stride]. Or
    np.lib.stride_tricks.sliding_window_view.
    """
    raise NotWritten


def col2im(columns: np.ndarray, shape: tuple[int, int, int, int], kernel: int, stride: int, padding: int) -> np.ndarray:
    """Each column added back to where its window lay, the padding cut off. shape: that of the images, which is
    returned."""
    raise NotWritten


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, padding: int) -> tuple[np.ndarray, tuple]:
    """x: [N, C, H, W]; w: [F, C, K, K]; b: [F]. Returns out [N, F, OH, OW] and the cache.

    The product is [F, N OH OW]: reshape it to [F, N, OH, OW], then move the images to the front with a transpose.
    """
    raise NotWritten


def conv_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx [N, C, H, W], dw [F, C, K, K], db [F]. First bring dout into the form [F, N OH OW]."""
    raise NotWritten
