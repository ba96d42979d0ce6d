"""Checks of the lab knn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visus.foundations import nearest
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Pace, Part, Shown, Tiles


def _squares(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return ((x[:, None] - train) ** 2).sum(axis=2)


def _rooted(squares: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(squares, 0))


def _last_tie(distances: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The vote with the classes counted from the other end."""
    last = labels.max()
    return last - nearest.vote(distances, last - labels, k)


def _cross(x: np.ndarray, labels: np.ndarray, folds: int, ks: list[int]) -> np.ndarray:
    return np.array(list(nearest.cross_validate(x, labels, ks, folds).values()))


def _cross_own(x: np.ndarray, labels: np.ndarray, folds: int, ks: list[int]) -> np.ndarray:
    """The images of a fold among those that vote on it."""
    right = np.stack([nearest.vote(nearest.one_loop(x, x), labels, k) == labels for k in ks])
    return np.stack([part.mean(axis=1) for part in np.array_split(right, folds, axis=1)], axis=1)


def _rows(n: int, m: int, d: int) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"x": rng.normal(size=(n, d)), "train": rng.normal(size=(m, d))}


def _table(n: int, m: int, classes: int, k: int) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"distances": rng.random((n, m)), "labels": rng.integers(classes, size=m), "k": k}


def _clusters(rng: np.random.Generator) -> Inputs:
    labels = rng.integers(3, size=31)
    return {"x": rng.normal(size=(31, 2)) + 1.2 * labels[:, None], "labels": labels, "folds": 4, "ks": [1, 3, 8]}


CASES = (Case("4 images, 6 training images, 5 numbers each", _rows(4, 6, 5), {5: "the number of numbers"}),
         Case("1 image, 3 training images", _rows(1, 3, 8)),
         Case("5 images and 5 training images of whole numbers", lambda rng: {
             "x": rng.integers(9, size=(5, 4)).astype(float), "train": rng.integers(9, size=(5, 4)).astype(float)}))
MISTAKES = (
    Mistake("The square root is missing: these are squared distances", _squares),
    Mistake("It is the L1 distance, of absolute differences: square them and take the root of the sum",
            lambda x, train: np.abs(x[:, None] - train).sum(axis=2)),
    Mistake("The differences are not squared before they are added", lambda x, train: np.sqrt(np.abs(
        (x[:, None] - train).sum(axis=2)))),
    Mistake("It is divided by the number of numbers: take the root of the sum, not of the mean",
            lambda x, train: np.sqrt(_squares(x, train) / x.shape[1])),
    Mistake("It is transposed: entry [i, j] belongs to x[i] and train[j]", lambda x, train: nearest.one_loop(train, x)),
    Mistake("The last column (or row) is left at 0: the range of a loop ends too early", lambda x, train:
            nearest.one_loop(x, train) * (np.arange(len(train)) < len(train) - 1)),
)
EXPANDED = (
    Mistake("The product has the factor 2: |a|^2 - 2 a.b + |b|^2",
            lambda x, train: _rooted(_squares(x, train) + x @ train.T)),
    Mistake("The product is taken off, not added: |a|^2 - 2 a.b + |b|^2",
            lambda x, train: _rooted(_squares(x, train) + 4 * x @ train.T)),
    Mistake("The squares of the images x are missing: |a|^2 - 2 a.b + |b|^2",
            lambda x, train: _rooted(_squares(x, train) - (x ** 2).sum(axis=1)[:, None])),
    Mistake("The squares of the training images are missing: |a|^2 - 2 a.b + |b|^2",
            lambda x, train: _rooted(_squares(x, train) - (train ** 2).sum(axis=1))),
)


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images.reshape(len(images), -1), labels) for images, labels in (digits.train, digits.val))
    order, rows = np.argsort(y[:160], kind="stable"), np.argsort(yv[:60], kind="stable")
    table = my.distances_no_loop(xv, x)
    shares = [(k, float((my.vote(table, y, k) == yv).mean())) for k in (1, 2, 3, 5, 8, 12, 20, 30, 50)]
    chosen = my.cross_validate(x[:400], y[:400], 4, [1, 3, 5, 10, 20])
    means = list(zip((1, 3, 5, 10, 20), chosen.mean(axis=1).tolist(), strict=True))
    return Shown(
        "Your distances between 300 of the built-in digits and 1,200 others, and what your vote makes of them.",
        (Tiles("Distances", "60 images (rows) against 160 training images (columns), both in the order of their "
               "classes: "
               "dark squares along the diagonal are small distances within a class.",
               [("distance", table[rows][:, order])]),
         Lines("Right answers by the number of neighbours", "Measured on the 300 images, and by your cross-validation "
               "in "
               "four parts of 400 training images.", "k", {"300 others": shares, "cross-validation": means}, True)),
        (Fact("right with k = 1", f"{shares[0][1]:.1%}", "at least 95%", shares[0][1] >= 0.95),
         Fact("right by cross-validation, k = 1", f"{means[0][1]:.1%}", "88% to 99.9%", 0.88 <= means[0][1] < 1)))


LAB = Lab(
    name="knn", number=1, title="k nearest neighbours", teaches="distances by two loops, one, none; votes; folds",
    source="Stanford CS231n, assignment 1; Cover and Hart 1967",
    parts=(
        Part(name="distances_two_loops", outputs=("distances",), right=nearest.one_loop, cases=CASES,
             mistakes=MISTAKES),
        Part(name="distances_one_loop", outputs=("distances",), right=nearest.one_loop, cases=CASES, mistakes=MISTAKES,
             pace=Pace(_rows(60, 60, 16), "distances_two_loops", 2)),
        Part(name="distances_no_loop", outputs=("distances",), right=nearest.one_loop, cases=CASES, tolerance=1e-6,
             mistakes=MISTAKES + EXPANDED, pace=Pace(_rows(200, 100, 8), "distances_one_loop", 2)),
        Part(name="vote", outputs=("labels",), right=nearest.vote, whole=True,
             cases=(Case("6 images, 9 training images, k = 1", _table(6, 9, 4, 1)),
                    Case("8 images, 12 training images, k = 4, where votes are equal", _table(8, 12, 4, 4))),
             mistakes=(Mistake("Of classes with as many votes it takes the largest number, not the smallest",
                               _last_tie),
                       Mistake("It takes the farthest images: np.argsort sorts from small to large",
                               lambda d, y, k: nearest.vote(-d, y, k)),
                       Mistake("It gives the nearest image's class: all k are to vote", lambda d, y, k: nearest.vote(d,
                                                                                                                     y,
                                                                                                                     1)),
                       Mistake("It gives the place of the nearest image: look its class up in labels",
                               lambda d, y, k: d.argmin(axis=1)),
                       Mistake("It counts one neighbour too few", lambda d, y, k: nearest.vote(d, y, max(1, k - 1))))),
        Part(name="cross_validate", outputs=("shares",), right=_cross,
             cases=(Case("31 images in 4 folds, k = 1, 3, 8", _clusters),),
             mistakes=(Mistake("The fold that is held out is among the training images too",
                               _cross_own),
                       Mistake("These are shares of wrong answers", lambda *i: 1 - _cross(*i)),
                       Mistake("It is transposed: a row for each k, a column for each fold", lambda *i: _cross(*i).T))),
    ),
    draw=_draw)
