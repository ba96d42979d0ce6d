"""Lines of equal height over a grid, as the path of an SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# For each of the 16 ways in which the corners (lower left, lower right, upper right, upper left; bit 0 first) of a cell
# stand above a height: the pairs of its sides (0 bottom, 1 right, 2 top, 3 left) that the line joins.
_CASES: tuple[tuple[tuple[int, int], ...], ...] = (
    (), ((3, 0),), ((0, 1),), ((3, 1),), ((1, 2),), ((3, 0), (1, 2)), ((0, 2),), ((3, 2),),
    ((2, 3),), ((2, 0),), ((0, 1), (2, 3)), ((2, 1),), ((1, 3),), ((1, 0),), ((0, 3),), ())


def contour_segments(heights: np.ndarray, level: float) -> np.ndarray:
    """The line of `level` over heights [H, W] in pieces: float [S, 2, 2], ends (column, row), by marching squares."""
    above = (heights > level).astype(np.int64)
    case = above[:-1, :-1] + 2 * above[:-1, 1:] + 4 * above[1:, 1:] + 8 * above[1:, :-1]
    pieces = []
    for row, column in zip(*np.nonzero((case > 0) & (case < 15)), strict=True):
        a, b = heights[row, column], heights[row, column + 1]
        c, d = heights[row + 1, column + 1], heights[row + 1, column]
        ends = ((column + _share(a, b, level), row), (column + 1, row + _share(b, c, level)),
                (column + _share(d, c, level), row + 1), (column, row + _share(a, d, level)))
        pieces += [(ends[one], ends[other]) for one, other in _CASES[int(case[row, column])]]
    return np.array(pieces, np.float64).reshape(-1, 2, 2)


def _share(start: float, end: float, level: float) -> float:
    """How far from start to end the level lies; used only where it lies between them."""
    return float((level - start) / (end - start)) if end != start else 0.5


def contour_path(heights: np.ndarray, levels: Sequence[float], box: tuple[float, float, float, float]) -> str:
    """The lines of all levels as a path within box = left, right, bottom, top in px; row 0 is the bottom."""
    left, right, bottom, top = box
    rows, columns = heights.shape
    words = []
    for level in levels:
        segments = contour_segments(heights, level)
        x = left + (right - left) * segments[..., 0] / (columns - 1)
        y = bottom + (top - bottom) * segments[..., 1] / (rows - 1)
        words += [f"M{x0:.1f} {y0:.1f}l{x1 - x0:.1f} {y1 - y0:.1f}"
                  for (x0, x1), (y0, y1) in zip(x, y, strict=True) if abs(x1 - x0) + abs(y1 - y0) >= 0.1]
    return "".join(words)


def even_levels(heights: np.ndarray, count: int = 11) -> list[float]:
    """Heights that cut the grid's points into parts of one size, so that flat and steep regions both have lines."""
    return [float(h) for h in np.unique(np.quantile(heights, (np.arange(count) + 0.5) / count)) if h > heights.min()]
