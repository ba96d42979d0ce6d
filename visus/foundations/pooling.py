"""Pooling beyond the maximum and the mean: L2-norm (any Lp) windows, and maxima over regions of uneven sizes.

Shapes: x [N, C, H, W]; out [N, C, OH, OW]. Every forward returns what its backward needs.

Sources: Lp: Sermanet, Chintala and LeCun, ICPR 2012, arXiv:1204.3968. Fractional max pooling: Graham,
arXiv:1412.6071, sections 2.1 and 2.2: his regions reduce a map by any factor between one and two.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from visus.core.errors import UserError
from visus.foundations.convolution import output_size

Cache = tuple
Regions = np.ndarray  # int [count, 2]: from, up to but not including


# ---------------------------------------------------------------- Lp


def lp_pool_forward(x: np.ndarray, size: int, stride: int, p: float = 2.0) -> tuple[np.ndarray, Cache]:
    """(sum over the window of |x|^p)^(1/p): p = 2 is the L2 norm, p = 1 a sum, large p nearly the maximum.

    torch's LPPool2d sums x^p without the magnitude, which is the same for even p and for x of at least 0.
    """
    if not p >= 1:
        raise UserError(f"p is {p}", where="lp_pool_forward", remedy="A norm has p of at least 1")
    for side in x.shape[2:]:
        output_size(side, size, stride)
    windows = sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    out = (np.abs(windows) ** p).sum(axis=(4, 5)) ** (1 / p)
    return out, (x, out, size, stride, p)


def lp_pool_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout sign(x) (|x| / out)^(p - 1), added up over the windows; 0 where a window is all zeros, a kink."""
    x, out, size, stride, p = cache
    dx = np.zeros_like(x)
    scale = np.divide(1.0, out, out=np.zeros_like(out), where=out > 0)
    for i in range(size):
        for j in range(size):
            place = (..., slice(i, i + stride * (out.shape[2] - 1) + 1, stride),
                     slice(j, j + stride * (out.shape[3] - 1) + 1, stride))
            dx[place] += dout * np.sign(x[place]) * (np.abs(x[place]) * scale) ** (p - 1) * (out > 0)
    return dx


# ---------------------------------------------------------------- where uneven regions lie


def random_edges(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` steps of one and two places in random order, from 0 to `size`: [count + 1]. Graham's "random"."""
    if not count <= size <= 2 * count:
        raise UserError(f"{count} steps of one or two cannot cover {size}", where="random_edges",
                        remedy=f"Between {-(-size // 2)} and {size} of them can")
    twos = size - count
    steps = rng.permutation(np.repeat([1, 2], [count - twos, twos]))
    return np.concatenate([[0], np.cumsum(steps)])


def pseudorandom_edges(size: int, count: int, u: float) -> np.ndarray:
    """ceil(alpha (i + u)) with alpha = size / count, moved to begin at 0: [count + 1]. Graham's "pseudorandom".

    u in (0, 1) is all that is drawn; steps of one and two are spread as evenly as whole numbers allow.
    """
    if not count <= size <= 2 * count:
        raise UserError(f"{count} steps of one or two cannot cover {size}", where="pseudorandom_edges",
                        remedy=f"Between {-(-size // 2)} and {size} of them can")
    i = np.arange(count + 1)  # alpha times a whole number, in whole numbers where it can be: no rounding moves an edge
    edges = (size * i) // count + np.ceil((size * i) % count / count + size / count * u).astype(int)
    return edges - edges[0]


def disjoint_regions(edges: np.ndarray) -> Regions:
    """From each edge up to the next one: every place lies in one region."""
    return np.stack([edges[:-1], edges[1:]], axis=1)


def overlapping_regions(edges: np.ndarray) -> Regions:
    """From each edge up to and with the next one: neighbours share a place. The edges run from 0 to size - 1."""
    return np.stack([edges[:-1], edges[1:] + 1], axis=1)


def spaced_regions(size: int, count: int, width: int, u: float) -> Regions:
    """Windows of one width, their starts spread from 0 to size - width: what torch's FractionalMaxPool2d does.

    u in [0, 1) shifts them: start i is floor((i + u) step) - floor(u step), step = (size - width) / (count - 1), and
    the last one ends at the end.
    """
    if not 1 <= width <= size or count < 1:
        raise UserError(f"{count} windows of {width} in {size}", where="spaced_regions",
                        remedy="At least one window, no wider than the map")
    step = (size - width) / (count - 1) if count > 1 else 0.0
    starts = np.floor((np.arange(count) + u) * step).astype(int) - int(u * step)
    starts[-1] = size - width
    return np.stack([starts, starts + width], axis=1)


# ---------------------------------------------------------------- the maximum of uneven regions


def region_max_pool_forward(x: np.ndarray, rows: Regions, columns: Regions) -> tuple[np.ndarray, Cache]:
    """The largest entry of each rectangle rows[i] x columns[j], the first of equals. Returns [N, C, OH, OW]."""
    row_index, row_inside = _members(rows, x.shape[2])
    column_index, column_inside = _members(columns, x.shape[3])
    windows = x[:, :, row_index[:, :, None, None], column_index[None, None]]  # [N, C, OH, KH, OW, KW]
    inside = row_inside[:, :, None, None] & column_inside[None, None]
    flat = np.where(inside, windows, -np.inf).transpose(0, 1, 2, 4, 3, 5).reshape(
        *x.shape[:2], len(rows), len(columns), -1)
    winner = flat.argmax(axis=-1)
    out = np.take_along_axis(flat, winner[..., None], axis=-1)[..., 0]
    wide = column_index.shape[1]
    place_row = np.take_along_axis(row_index[None, None, :, None, :], (winner // wide)[..., None], axis=-1)[..., 0]
    place_column = np.take_along_axis(column_index[None, None, None], (winner % wide)[..., None], axis=-1)[..., 0]
    return out, (x.shape, place_row, place_column)


def region_max_pool_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """Each gradient goes to the place that won; one that won several regions collects their sum."""
    shape, place_row, place_column = cache
    dx = np.zeros(shape)
    example, channel = np.arange(shape[0])[:, None, None, None], np.arange(shape[1])[:, None, None]
    np.add.at(dx, (example, channel, place_row, place_column), dout)
    return dx


def fractional_max_pool_forward(x: np.ndarray, size: tuple[int, int], rng: np.random.Generator, *,
                                overlapping: bool = True, pseudorandom: bool = False) -> tuple[np.ndarray, Cache]:
    """Graham's fractional max pooling to (OH, OW) = size, with regions drawn anew by rng at every call."""
    regions = []
    for side, count in zip(x.shape[2:], size, strict=True):
        length = side - 1 if overlapping else side
        edges = pseudorandom_edges(length, count, 1 - rng.random()) if pseudorandom else \
            random_edges(length, count, rng)
        regions.append(overlapping_regions(edges) if overlapping else disjoint_regions(edges))
    return region_max_pool_forward(x, *regions)


fractional_max_pool_backward = region_max_pool_backward


def _members(regions: Regions, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of each region, [count, widest], and which of them belong to it."""
    regions = np.asarray(regions)
    if regions.ndim != 2 or (regions[:, 0] < 0).any() or (regions[:, 1] > size).any() or \
            (regions[:, 0] >= regions[:, 1]).any():
        raise UserError("a region that is empty or lies outside", where="region_max_pool_forward",
                        remedy=f"Each is (from, to) with 0 <= from < to <= {size}")
    place = regions[:, :1] + np.arange((regions[:, 1] - regions[:, 0]).max())
    return np.minimum(place, size - 1), place < regions[:, 1:]
