"""Distances between all of two sets of vectors in three ways, and the vote of the nearest (CS231n, assignment 1).

x: queries [Q, D]; base: [N, D]; all give the Euclidean distances [Q, N]. Two loops state it; one loop lets NumPy take a
row at a time; none spends its time in a matrix product, by |x - y|^2 = |x|^2 - 2 x.y + |y|^2, which is the fastest and
loses digits where two vectors almost agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from visus.core.errors import UserError

Array = NDArray[np.float64]


def two_loops(x: Array, base: Array) -> Array:
    distances = np.empty((len(x), len(base)))
    for i in range(len(x)):
        for j in range(len(base)):
            difference = x[i] - base[j]
            distances[i, j] = np.sqrt(difference @ difference)
    return distances


def one_loop(x: Array, base: Array) -> Array:
    distances = np.empty((len(x), len(base)))
    for i in range(len(x)):
        distances[i] = np.sqrt(((base - x[i]) ** 2).sum(1))
    return distances


def no_loop(x: Array, base: Array) -> Array:
    squared = (x**2).sum(1)[:, None] - 2 * (x @ base.T) + (base**2).sum(1)
    return np.sqrt(np.maximum(squared, 0))  # rounding can leave it below 0


def l1(x: Array, base: Array) -> Array:
    """Sums of absolute differences [Q, N], a query at a time."""
    return np.stack([np.abs(base - row).sum(1) for row in x]) if len(x) else np.empty((0, len(base)))


def vote(distances: Array, labels: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """[Q, N] and labels int64 [N] from 0 -> int64 [Q]: the label most frequent among the k nearest, of equally
    frequent ones the smallest; of equal distances the first. Raises UserError for a k outside of 1 to N."""
    if not 1 <= k <= len(labels):
        raise UserError(f"must be from 1 to {len(labels)}, the number of vectors", where=f"k={k}")
    nearest = labels[np.argsort(distances, axis=1, kind="stable")[:, :k]]  # [Q, k]
    votes = (nearest[:, :, None] == np.arange(labels.max() + 1)).sum(1)    # [Q, C]
    return votes.argmax(1)


def cross_validate(x: Array, labels: NDArray[np.int64], ks: list[int], folds: int = 5) -> dict[int, list[float]]:
    """For each k the shares of right answers on each of `folds` consecutive parts, by the vote of the others."""
    if not 2 <= folds <= len(x):
        raise UserError(f"must be from 2 to {len(x)}, the number of vectors", where=f"folds={folds}")
    parts = np.array_split(np.arange(len(x)), folds)
    right: dict[int, list[float]] = {k: [] for k in ks}
    for held in parts:
        rest = np.setdiff1d(np.arange(len(x)), held)
        distances = no_loop(x[held], x[rest])
        for k in ks:
            right[k].append(float((vote(distances, labels[rest], k) == labels[held]).mean()))
    return right
