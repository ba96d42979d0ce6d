"""Lighting noise along the principal colours of the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.groups import on_chosen

# of the covariance of ImageNet's training pixels in [0, 1]; vectors are columns
IMAGENET_VALUES = (0.2175, 0.0188, 0.0045)
IMAGENET_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True)
class PCALighting:
    """One colour added to all pixels of an image: a sum of the principal colours of the training set, each times its
    eigenvalue and a normal number of standard deviation `std`, with `probability` (Krizhevsky et al. 2012, "ImageNet
    classification with deep convolutional neural networks", section 4.1: std 0.1).

    eigenvalues: of the covariance of the training set's pixels, in units of [0, 1]. eigenvectors: rows R, G, B, a
    column for each value. Both are those of ImageNet; `fitted_to` makes the step for other images. Images of one
    channel get the mean of the three.
    """

    std: float = 0.1
    eigenvalues: tuple[float, ...] = IMAGENET_VALUES
    eigenvectors: tuple[tuple[float, ...], ...] = IMAGENET_VECTORS
    probability: float = 1.0
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "std", self.std, 0, 10)
        check_range(self, "probability", self.probability, 0, 1)
        for field, shape in (("eigenvalues", (3,)), ("eigenvectors", (3, 3))):
            try:
                right = np.asarray(getattr(self, field), np.float64).shape == shape
            except (TypeError, ValueError):
                right = False
            if not right:
                raise RecipeError(f"must be {' x '.join(map(str, shape))} numbers",
                                  where=f"augmentation.PCALighting.{field}={getattr(self, field)!r}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(7)
        normal = np.sqrt(-2 * np.log1p(-u[:, :3])) * np.cos(2 * np.pi * u[:, 3:6])  # Box and Muller 1958
        along = self.std * normal * np.asarray(self.eigenvalues)  # [B, 3]
        shift = along @ np.asarray(self.eigenvectors, np.float64).T
        if images.shape[1] == 1:
            shift = shift.mean(1, keepdims=True)
        return on_chosen(images, u[:, 6] < self.probability, _shifted, shift.astype(np.float32)[:, :, None, None])


def _shifted(images: Tensor, shift: np.ndarray) -> Tensor:
    return (images + torch.from_numpy(shift).to(images.device)).clamp_(0, 1)


def fitted_to(covariance: np.ndarray, std: float = 0.1) -> dict[str, Any]:
    """The step {name: pca_lighting, ...} for images whose RGB covariance [3, 3], in units of [0, 1], is this
    (`visus.data.statistics.image_statistics`)."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    order = np.argsort(values)[::-1]
    return {"name": "pca_lighting", "std": std, "eigenvalues": [max(float(values[i]), 0.0) for i in order],
            "eigenvectors": [[float(v) for v in row] for row in vectors[:, order]]}


augmentations.add(PCALighting, {"pca_lighting": {}})
