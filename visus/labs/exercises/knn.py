"""Lab knn: the k-nearest-neighbour classifier, three ways.

To classify an image, look up the k training images that are most like it and let them vote. There is nothing to train;
all the work is in the distances between N images and M training images, each a row of D numbers:

    distance(a, b) = sqrt( sum over d of (a_d - b_d)^2 )

You compute the same table of distances three times: with two loops, with one, with none. The last is what a library
does: a single matrix product, since |a - b|^2 = |a|^2 - 2 a.b + |b|^2. Compare the times that `check` tells.

k is a setting that the training data cannot choose for themselves: with k = 1 each is its own nearest neighbour.
Cross-validation holds a part of them out, in turn.

    visus lab check knn.py
    visus lab show knn.py

Source: Stanford CS231n, image classification and assignment 1; Cover and Hart 1967.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "knn"


def distances_two_loops(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The Euclidean distance of every image to every training image, one pair at a time.

    x: [N, D]; train: [M, D]; returns [N, M], entry [i, j] the distance of x[i] and train[j].
    """
    raise NotWritten


def distances_one_loop(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The same, with a loop over the images x only. train - x[i] is [M, D]: the row is taken off every row."""
    raise NotWritten


def distances_no_loop(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The same without a loop, and without an array [N, M, D], which would not fit into memory.

    Hint: three terms of shapes [N, 1], [N, M] and [M] add up to [N, M]. Rounding can leave a tiny number below 0 where
    two rows are equal: np.maximum(..., 0) before the root.
    """
    raise NotWritten


def vote(distances: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The class that most of the k nearest training images have; of classes with as many votes the smallest number.

    distances: [N, M]; labels: [M] whole numbers from 0; returns [N] whole numbers. Hints: np.argsort, np.bincount.
    """
    raise NotWritten


def cross_validate(x: np.ndarray, labels: np.ndarray, folds: int, ks: list[int]) -> np.ndarray:
    """The share of right answers for each k and each fold that is held out in turn: [len(ks), folds].

    Split the rows in their order, with np.array_split, into `folds` parts. For fold f, the training images are those of
    all other parts (np.concatenate), the images to classify those of part f.
    """
    raise NotWritten
