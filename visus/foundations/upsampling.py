"""Making maps larger: unpooling by switches or into the corner, interpolation as two matrices, the bilinear filter.

Shapes: x [N, C, H, W]; out [N, C, OH, OW].

Interpolation along one axis is a matrix A [OH, H] whose rows add up to one, so that out = A x B^T for the two axes and
the backward pass is A^T dout B. Output pixel i lies at (i + 0.5) H / OH - 0.5 of the input (the corners of the images
agree), or at i (H - 1) / (OH - 1) with align_corners (the centres of the corner pixels agree).

Sources: unpooling by switches: Zeiler and Fergus, ECCV 2014; Noh, Hong and Han, ICCV 2015, arXiv:1505.04366. Bicubic:
Keys, IEEE Trans. ASSP 29 (1981), with a = -0.75 as torch and OpenCV. Bilinear filter: Long, Shelhamer and Darrell,
CVPR 2015, arXiv:1411.4038, section 3.3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from visus.core.errors import UserError
from visus.foundations.convolution import Cache

Kind = Literal["nearest", "bilinear", "bicubic"]
SHARPNESS = -0.75  # Keys's a


# ---------------------------------------------------------------- unpooling


def max_unpool_forward(pooled: np.ndarray, switches: Cache) -> tuple[np.ndarray, Cache]:
    """Each value goes back to the place that won its window; zeros elsewhere.

    switches: the cache of `max_pool_forward` with windows that do not overlap. Returns the shape that was pooled.
    """
    (n, c, h, w), winner, size, stride, padding = switches
    if stride < size:
        raise UserError(f"windows of {size} that are {stride} apart overlap: two values may have one place",
                        where="max_unpool_forward", remedy="Pool with a stride of at least the window")
    if pooled.shape != winner.shape:
        raise UserError(f"values of shape {pooled.shape} for switches of shape {winner.shape}",
                        where="max_unpool_forward")
    example, channel, i, j = np.indices(winner.shape, sparse=True)
    place = (example, channel, i * stride + winner // size - padding, j * stride + winner % size - padding)
    out = np.zeros((n, c, h, w))
    out[place] = pooled
    return out, place


def max_unpool_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """The gradient of a value is that of its place."""
    return dout[cache]


def bed_of_nails_forward(x: np.ndarray, factor: int) -> tuple[np.ndarray, Cache]:
    """Each value in the upper left corner of a factor x factor block of zeros."""
    n, c, h, w = x.shape
    out = np.zeros((n, c, h * _whole(factor), w * factor))
    out[:, :, ::factor, ::factor] = x
    return out, (factor,)


def bed_of_nails_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    factor, = cache
    return dout[:, :, ::factor, ::factor].copy()


# ---------------------------------------------------------------- interpolation


def interpolation_matrix(size: int, out: int, kind: Kind, align_corners: bool = False) -> np.ndarray:
    """[out, size]: how much of each input place goes into each output place. Beyond the border the last one counts."""
    if size < 1 or out < 1:
        raise UserError(f"{size} places to {out}", where="interpolation_matrix", remedy="Both are at least 1")
    i = np.arange(out)
    if kind == "nearest":
        return np.eye(size)[i * size // out]
    if align_corners:
        position = i * ((size - 1) / (out - 1)) if out > 1 else np.zeros(1)
    else:
        position = (i + 0.5) * (size / out) - 0.5
    if kind == "bilinear":
        position = np.clip(position, 0, size - 1)
        taps = np.arange(0, 2)
        weights = np.stack([1 - position % 1, position % 1], axis=1)
    elif kind == "bicubic":
        taps = np.arange(-1, 3)
        weights = keys_cubic(position[:, None] % 1 - taps)
    else:
        raise UserError(f"there is no interpolation {kind!r}", where="interpolation_matrix",
                        remedy="nearest, bilinear or bicubic")
    places = np.clip(np.floor(position).astype(int)[:, None] + taps, 0, size - 1)
    matrix = np.zeros((out, size))
    np.add.at(matrix, (i[:, None], places), weights)
    return matrix


def keys_cubic(t: np.ndarray, a: float = SHARPNESS) -> np.ndarray:
    """Keys's cubic at distance t: 1 at 0, 0 at every other whole number and beyond two places."""
    t = np.abs(t)
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def resize_forward(x: np.ndarray, size: tuple[int, int], kind: Kind = "bilinear",
                   align_corners: bool = False) -> tuple[np.ndarray, Cache]:
    """x interpolated to (OH, OW) = size: A x B^T."""
    rows = interpolation_matrix(x.shape[2], size[0], kind, align_corners)
    columns = interpolation_matrix(x.shape[3], size[1], kind, align_corners)
    return rows @ x @ columns.T, (rows, columns)


def resize_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """A^T dout B."""
    rows, columns = cache
    return rows.T @ dout @ columns


def bilinear_filter(factor: int) -> np.ndarray:
    """[KH, KW] of side 2 factor - factor % 2: a transposed convolution with it, stride `factor` and padding
    ceil((factor - 1) / 2) enlarges by bilinear interpolation (inside; at the border it meets zeros, not the edge)."""
    side = 2 * _whole(factor) - factor % 2
    centre = factor - 1 if side % 2 else factor - 0.5
    tent = 1 - np.abs(np.arange(side) - centre) / factor
    return np.outer(tent, tent)


def bilinear_weights(channels: int, factor: int) -> np.ndarray:
    """[C, C, KH, KW] for `transposed_convolution_forward`: each channel is enlarged by itself."""
    weights = np.zeros((channels, channels, *bilinear_filter(factor).shape))
    weights[range(channels), range(channels)] = bilinear_filter(factor)
    return weights


def _whole(factor: int) -> int:
    if not isinstance(factor, int | np.integer) or factor < 1:
        raise UserError(f"factor is {factor}", where="upsampling", remedy="It is a whole number of at least 1")
    return int(factor)
