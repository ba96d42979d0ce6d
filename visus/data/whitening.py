"""Decorrelation and whitening of images by the principal components of the training set.

    whitening = Whitening.fit((batch.images for batch in loader.epoch(0)), kind="zca", epsilon=0.01)
    white = whitening.transform(images)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from visus.core.errors import DataError
from visus.data.statistics import falling_eigen

Kind = Literal["decorrelate", "pca", "zca"]
_TINY = 1e-12  # share of the largest variance below which a direction holds nothing but rounding


@dataclass(frozen=True, eq=False)
class Whitening:
    """x -> what is left of it when its mean is taken away and its components are made independent.

    kind: 'decorrelate' turns x - mean into the principal components (Pearson 1901); 'pca' divides these by their
    standard deviation; 'zca' turns the result back, so that it looks like the image with sharp edges (Bell and
    Sejnowski 1997, "The independent components of natural scenes are edge filters"). Deviations are
    sqrt(variance + epsilon), in squared units of the values: directions that hardly vary are not blown up.

    mean: float64 [D]. components: float64 [K, D], a principal direction in each row, largest variance first.
    variances: float64 [K], divided by N - 1. shape: of one sample.
    """

    kind: Kind
    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    epsilon: float
    shape: tuple[int, ...]

    @classmethod
    def fit(cls, batches: Iterable[Any], *, kind: Kind = "zca", components: int | None = None,
            epsilon: float = 1e-5) -> Whitening:
        """From batches [B, ...] of arrays or CPU tensors, uint8 (taken in units of [0, 1]) or float, in one pass.

        components: how many of the D directions are kept, None for all that vary. Memory: a batch and D x D numbers (of
        32 x 32 colour images, D = 3072: 75 MB). Raises DataError for fewer than two samples or wrong arguments.
        """
        if kind not in ("decorrelate", "pca", "zca"):
            raise DataError("must be 'decorrelate', 'pca' or 'zca'", where=f"kind={kind!r}")
        if epsilon < 0:
            raise DataError("must be 0 or more", where=f"epsilon={epsilon}")
        count, mean, products, shape = _moments(batches)
        variances, vectors = falling_eigen(products / (count - 1))
        varied = max(1, int((variances > _TINY * variances[0]).sum()))
        if components is not None and not 1 <= components <= len(mean):
            raise DataError(f"must be from 1 to {len(mean)}", where=f"components={components}")
        keep = min(varied, count - 1, components or len(mean))
        return cls(kind, mean, vectors[:, :keep].T.copy(), variances[:keep].copy(), float(epsilon), shape)

    def transform(self, samples: Any) -> np.ndarray:
        """[B, ...] -> float64 [B, K], or for 'zca' of the samples' shape."""
        parts = (self._rows(samples) - self.mean) @ self.components.T
        if self.kind != "decorrelate":
            parts /= self._deviations
        return (parts @ self.components).reshape(len(parts), *self.shape) if self.kind == "zca" else parts

    def inverse(self, white: np.ndarray) -> np.ndarray:
        """What `transform` gave -> samples [B, ...]: exactly but for the directions that were not kept."""
        parts = np.asarray(white, np.float64).reshape(len(white), -1)
        if self.kind == "zca":
            parts = parts @ self.components.T
        if self.kind != "decorrelate":
            parts = parts * self._deviations
        return (parts @ self.components + self.mean).reshape(len(parts), *self.shape)

    @property
    def _deviations(self) -> np.ndarray:
        return np.sqrt(self.variances + self.epsilon)

    def _rows(self, samples: Any) -> np.ndarray:
        rows = _rows(samples)
        if rows.shape[1] != len(self.mean):
            raise DataError(f"samples of {np.asarray(samples).shape[1:]}, fitted to {self.shape}",
                            where="Whitening.transform")
        return rows


def viewed(values: np.ndarray) -> np.ndarray:
    """Float [B, C, H, W] of any range -> uint8 to look at: each image stretched over the levels."""
    axes = tuple(range(1, values.ndim))
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    return np.rint(255 * (values - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)


def _rows(samples: Any) -> np.ndarray:
    rows = np.asarray(samples)
    rows = rows.reshape(len(rows), -1)
    return rows / 255.0 if rows.dtype == np.uint8 else rows.astype(np.float64)


def _moments(batches: Iterable[Any]) -> tuple[int, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Count, mean [D], and the sum of products of deviations [D, D], joined batch by batch (Chan, Golub, LeVeque 1983,
    "Algorithms for computing the sample variance")."""
    count, shape = 0, ()
    mean, products = np.zeros(0), np.zeros((0, 0))
    for batch in batches:
        rows = _rows(batch)
        if not len(rows):
            continue
        if not count:
            shape, mean, products = np.asarray(batch).shape[1:], np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        if rows.shape[1] != len(mean):
            raise DataError(f"samples of {rows.shape[1]} and {len(mean)} numbers", where=f"sample {count}")
        here = rows.mean(0)
        rows = rows - here
        apart = here - mean
        products += rows.T @ rows + np.outer(apart, apart) * (count * len(rows) / (count + len(rows)))
        mean = mean + apart * (len(rows) / (count + len(rows)))
        count += len(rows)
    if count < 2:
        raise DataError(f"{count} samples have no covariance", remedy="Give at least two")
    return count, mean, products, shape
