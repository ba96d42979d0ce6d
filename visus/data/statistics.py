"""What a training set is like on the average: mean, deviation and covariance of its colours, and its mean image.

    parts = split_samples(samples, seed=0)
    loader = Loader(samples, parts["train"], preprocessing)          # of the training split alone
    found = image_statistics(batch.images for batch in loader.epoch(0))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from visus.core.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """Of images in [0, 1]. mean, std: float64 [C], over all pixels; covariance: float64 [C, C] of the colours (divided
    by the number of pixels); mean_image: float64 [C, H, W], over the images; count: of images."""

    mean: np.ndarray
    std: np.ndarray
    covariance: np.ndarray
    mean_image: np.ndarray
    count: int

    def principal_colors(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues [C], falling, and eigenvectors [C, C], a column each, of the covariance."""
        return falling_eigen(self.covariance)


def image_statistics(batches: Iterable[Any]) -> ImageStatistics:
    """In one pass over batches [B, C, H, W] (arrays or tensors on the CPU, of one shape but for B), uint8 or float in
    [0, 1]. Needs memory for one batch and one image. Raises DataError where there is no image or shapes differ."""
    count, total, products = 0, np.zeros(0), np.zeros(0)
    shape: tuple[int, ...] = ()
    for batch in batches:
        images = np.asarray(batch)
        images = images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)
        if not len(images):
            continue
        if not count:
            shape, total = images.shape[1:], np.zeros(images.shape[1:])
            products = np.zeros((shape[0], shape[0]))
        if images.shape[1:] != shape:
            raise DataError(f"images of {images.shape[1:]} and {shape} have no common mean",
                            where=f"image {count}", remedy="Resize them first, as Loader does")
        count += len(images)
        total += images.sum(0)
        colors = images.swapaxes(0, 1).reshape(shape[0], -1)
        products += colors @ colors.T
    if not count:
        raise DataError("there is no image to take a mean of")
    pixels = count * int(np.prod(shape[1:]))
    mean = total.sum((1, 2)) / pixels
    covariance = products / pixels - np.outer(mean, mean)
    std = np.sqrt(np.maximum(np.diag(covariance), 0))
    return ImageStatistics(mean, std, covariance, total / count, count)


def contrast_normalised(images: np.ndarray, scale: float = 1.0, bias: float = 0.0, floor: float = 1e-8) -> np.ndarray:
    """Float [B, ...]: each image less its own mean, over its own deviation (global contrast normalisation; Coates, Ng,
    Lee 2011, "An analysis of single-layer networks in unsupervised feature learning", section 3.1).

    scale * (x - mean) / max(floor, sqrt(bias + variance)); `bias` keeps images of nearly one value from being blown up.
    """
    axes = tuple(range(1, images.ndim))
    centred = images - images.mean(axes, keepdims=True)
    return scale * centred / np.maximum(floor, np.sqrt(bias + (centred**2).mean(axes, keepdims=True)))


def falling_eigen(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, falling and not below 0, and eigenvectors as columns, each with its largest entry positive."""
    values, vectors = np.linalg.eigh(symmetric)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return values, vectors * np.where(largest < 0, -1.0, 1.0)
