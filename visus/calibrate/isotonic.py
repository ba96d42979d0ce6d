"""Isotonic regression: for each class against the rest, the rising step function nearest to the outcomes.

Paper: Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD 2002.
The pools of adjacent violators of all classes are found together: in every round each falling run of neighbouring
pools becomes one. Two neighbours that fall belong to one pool of the solution whatever the rest is, and after pooling
they still lie above a lower right neighbour, so a whole falling run may be pooled at once. Between pools the function
is linear, as scikit-learn's; rows are divided by their sum.

Departure: a probability stays in [1 / 2N, 1 - 1 / 2N], N validation samples: a pool without a hit says no more, and an
outcome that it called impossible would cost an infinite likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """knots, values: for each class the ascending probabilities where the function is given, and what it is there, in
    [0, 1]. floor: the smallest probability that comes out before rows are divided by their sum."""

    knots: tuple[tuple[float, ...], ...]
    values: tuple[tuple[float, ...], ...]
    floor: float
    name: ClassVar[str] = "isotonic"

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """[N, C] -> float64 [N, C], rows that sum to 1."""
        raw = np.stack([np.interp(np.asarray(column, np.float64), knots, values)
                        for column, knots, values in zip(probs.T, self.knots, self.values, strict=True)], axis=1)
        raw = np.clip(raw, self.floor, 1 - self.floor)
        return raw / raw.sum(1, keepdims=True)

    def to_dict(self) -> dict[str, Any]:
        return {"knots": [list(k) for k in self.knots], "values": [list(v) for v in self.values], "floor": self.floor}

    @property
    def sentence(self) -> str:
        steps = sorted(len(set(v)) for v in self.values)
        return (f"a rising function for each class, of {steps[len(steps) // 2]} levels in the middle; answers can "
                "change")


def fit_isotonic(probs: np.ndarray, targets: np.ndarray) -> Isotonic:
    """One rising function for each class against the rest. probs: [N, C]. targets: integers [N]."""
    count, num_classes = probs.shape
    hits = np.asarray(targets)[:, None] == np.arange(num_classes)  # [N, C]
    order = np.argsort(probs, axis=0, kind="stable")
    x = np.take_along_axis(probs, order, 0).T.astype(np.float64)  # [C, N], ascending
    y = np.take_along_axis(hits, order, 0).T.astype(np.float64)
    knots, values = [], []
    for at, level in zip(*rising(x, y), strict=True):
        keep = np.ones(len(at), bool)  # inside of a pool no knot is needed
        keep[1:-1] = (level[1:-1] != level[:-2]) | (level[1:-1] != level[2:])
        knots.append(tuple(at[keep].tolist()))
        values.append(tuple(level[keep].tolist()))
    return Isotonic(knots=tuple(knots), values=tuple(values), floor=1 / (2 * count))


def rising(x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Least squares among rising functions, for each row on its own: (distinct x, fitted values) of each row.

    x: float64 [R, N], ascending in each row. y: float64 [R, N]. Equal x are one point, of their mean and weight.
    """
    rows, count = x.shape
    row_of = np.repeat(np.arange(rows), count)
    first = np.ones((rows, count), bool)
    first[:, 1:] = x[:, 1:] != x[:, :-1]
    point = np.cumsum(first.ravel()) - 1  # [R N] -> distinct points
    weight = np.bincount(point).astype(np.float64)
    total = np.bincount(point, weights=y.ravel())
    point_row, point_x = row_of[first.ravel()], x.ravel()[first.ravel()]
    pool = np.arange(len(weight))  # of each point
    pool_row = point_row
    while True:
        mean = total / weight
        falls = np.zeros(len(mean), bool)  # pool i lies at or below its left neighbour in the same row
        falls[1:] = (mean[1:] <= mean[:-1]) & (pool_row[1:] == pool_row[:-1])
        if not falls.any():
            break
        joined = np.cumsum(~falls) - 1
        weight = np.bincount(joined, weights=weight).astype(np.float64)
        total = np.bincount(joined, weights=total).astype(np.float64)
        pool_row, pool = pool_row[~falls], joined[pool]
    fitted = (total / weight)[pool]
    ends = np.searchsorted(point_row, np.arange(1, rows))
    return np.split(point_x, ends), np.split(fitted, ends)
