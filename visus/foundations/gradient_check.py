"""Numeric gradients, and the check of an analytic gradient against them.

A derivative is a limit, so a small finite step approximates it: with one extra evaluation to O(h), with two, placed
symmetrically, to O(h^2). Both are slow (one or two evaluations an entry) and approximate, but they need nothing but
the function itself, which makes them the referee of every backward pass in this room.

A kink (ReLU at 0, two equal entries of a max) spoils the comparison: the two evaluations lie on different pieces of
the function and the difference is the derivative of neither. `check_gradient` is told by `winners` which piece is
active, and draws another entry where a step changes it.

Source: Stanford CS231n notes, "Neural Networks Part 3: Gradient checks"; the error of differences: Press et al.,
Numerical Recipes, section 5.7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError

Function = Callable[[np.ndarray], "np.ndarray | float"]


def forward_difference(f: Function, x: np.ndarray, upstream: np.ndarray | float = 1.0, *,
                       h: float = 1e-7) -> np.ndarray:
    """d sum(f(x) * upstream) / dx, entry by entry, as (f(x + h) - f(x)) / h: error O(h).

    x: any shape, float64, restored afterwards. upstream: the shape of f(x). Returns an array of x's shape.
    """
    _require_double(x)
    gradient, base = np.empty_like(x), np.array(f(x))
    for index in np.ndindex(x.shape):
        gradient[index] = np.sum((_moved(f, x, index, h) - base) * upstream) / h
    return gradient


def centred_difference(f: Function, x: np.ndarray, upstream: np.ndarray | float = 1.0, *,
                       h: float = 1e-5) -> np.ndarray:
    """d sum(f(x) * upstream) / dx, entry by entry, as (f(x + h) - f(x - h)) / 2h: error O(h^2).

    x: any shape, float64, restored afterwards. upstream: the shape of f(x). Returns an array of x's shape.
    """
    _require_double(x)
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        gradient[index] = _centred_entry(f, x, index, upstream, h)
    return gradient


def five_point_difference(f: Function, x: np.ndarray, upstream: np.ndarray | float = 1.0, *,
                          h: float = 1e-3) -> np.ndarray:
    """The same as (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h: error O(h^4), so that a larger step, with
    less rounding, is also the more exact one where f is smooth over x - 2h to x + 2h.

    x: any shape, float64, restored afterwards. upstream: the shape of f(x). Returns an array of x's shape.
    """
    _require_double(x)
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        gradient[index] = (4 * _centred_entry(f, x, index, upstream, h)
                           - _centred_entry(f, x, index, upstream, 2 * h)) / 3
    return gradient


def relative_error(a: np.ndarray | float, b: np.ndarray | float, *, floor: float = 1e-8) -> float:
    """The largest |a - b| / max(|a| + |b|, floor) over the entries: 0 for equal, 1 where one of the two is 0.

    `floor` keeps two gradients that are both zero up to rounding from counting as different.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise UserError(f"the shapes differ: {a.shape} and {b.shape}", where="relative_error")
    if a.size == 0:
        return 0.0
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a) + np.abs(b), floor)))


@dataclass(frozen=True, kw_only=True)
class GradientCheck:
    """What `check_gradient` found."""

    error: float
    """The largest relative error over the entries that were compared."""
    index: tuple[int, ...]
    """Where it is."""
    analytic: float
    numeric: float
    compared: int
    redrawn: int
    """Entries that were drawn and dropped, because a step across them crosses a kink."""

    def __str__(self) -> str:
        return (f"relative error {self.error:.2e} at {self.index}: analytic {self.analytic:.8g}, numeric "
                f"{self.numeric:.8g} ({self.compared} entries compared, {self.redrawn} redrawn at kinks)")


def check_gradient(f: Function, x: np.ndarray, analytic: np.ndarray, upstream: np.ndarray | float = 1.0, *,
                   rng: np.random.Generator, entries: int = 20, h: float = 1e-5, floor: float = 1e-8,
                   winners: Callable[[np.ndarray], np.ndarray] | None = None) -> GradientCheck:
    """Compare `analytic` with centred differences at randomly drawn entries of x.

    f: x -> array or number; analytic: d sum(f(x) * upstream) / dx, of x's shape; entries: how many to compare (all when
    x has fewer); winners: x -> integers or booleans that name the active piece of each kink, such as `x > 0` for ReLU
    or the arg max of a pooling window. An entry whose winners differ between x - h and x + h is replaced by another.
    """
    _require_double(x)
    if analytic.shape != x.shape:
        raise UserError(f"a gradient of shape {analytic.shape} for an input of shape {x.shape}",
                        where="check_gradient", remedy="A gradient has the shape of what it is taken of")
    compared = redrawn = 0
    worst: tuple[float, tuple[int, ...], float, float] | None = None
    for flat in rng.permutation(x.size):
        if compared == entries:
            break
        index = tuple(int(i) for i in np.unravel_index(flat, x.shape))
        if winners is not None and crosses_kink(winners, x, index, h):
            redrawn += 1
            continue
        compared += 1
        numeric, claimed = _centred_entry(f, x, index, upstream, h), float(analytic[index])
        error = relative_error(claimed, numeric, floor=floor)
        if worst is None or np.isnan(error) or error > worst[0]:  # nothing is greater than a NaN: it stays
            worst = error, index, claimed, numeric
    if worst is None:
        raise UserError(f"nothing to compare: all {redrawn} entries lie at a kink", where="check_gradient",
                        remedy="Check at another x, or take a smaller h")
    return GradientCheck(error=worst[0], index=worst[1], analytic=worst[2], numeric=worst[3], compared=compared,
                         redrawn=redrawn)


def crosses_kink(winners: Callable[[np.ndarray], np.ndarray], x: np.ndarray, index: tuple[int, ...],
                 h: float) -> bool:
    """Whether another piece of the function is active at x + h than at x - h, moving one entry of x."""
    return not np.array_equal(_moved(winners, x, index, h), _moved(winners, x, index, -h))


def _centred_entry(f: Function, x: np.ndarray, index: tuple[int, ...], upstream: np.ndarray | float,
                   h: float) -> float:
    return float(np.sum((_moved(f, x, index, h) - _moved(f, x, index, -h)) * upstream) / (2 * h))


def _moved(f: Function, x: np.ndarray, index: tuple[int, ...], step: float) -> np.ndarray:
    """f with one entry of x moved by `step`; x is restored even if f raises."""
    old = x[index]
    x[index] = old + step
    try:
        return np.array(f(x))  # a copy: f may hand back a view of x
    finally:
        x[index] = old


def _require_double(x: np.ndarray) -> None:
    if x.dtype != np.float64:
        raise UserError(f"x is {x.dtype}: differences of single-precision numbers are mostly rounding",
                        where="gradient check", remedy="Pass x.astype(np.float64)")
