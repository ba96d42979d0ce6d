"""3-Augment and its parts: grey, solarised, or blurred."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.blur import gaussian_blur
from visus.data.transforms.color import luma
from visus.data.transforms.groups import on_chosen, on_rows_


@dataclass(frozen=True)
class Grayscale:
    """Every channel becomes the luma (ITU-R 601), with `probability`."""

    probability: float = 0.2
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return on_chosen(images, draws.uniform(1)[:, 0] < self.probability, _grey)


@dataclass(frozen=True)
class Solarize:
    """Values of `threshold` and above, in [0, 1], become 1 - value, with `probability`."""

    threshold: float = 128 / 255
    probability: float = 0.2
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("threshold", "probability"):
            check_range(self, field, getattr(self, field), 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return on_chosen(images, draws.uniform(1)[:, 0] < self.probability, lambda x: solarize(x, self.threshold))


@dataclass(frozen=True)
class ThreeAugment:
    """One of three, each for a third of the images: grey, solarised, or blurred by a Gaussian whose standard deviation,
    in pixels, is drawn from `sigma` (Touvron et al., DeiT III, ECCV 2022, arXiv:2204.07118, section 3.2; the width is
    that of the authors' code, for images of 224 pixels). `threshold`: as of `Solarize`. Colour jitter, which the paper
    has after it, is its own step.
    """

    threshold: float = 128 / 255
    sigma: tuple[float, float] = (0.1, 2.0)
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "threshold", self.threshold, 0, 1)
        check_interval(self, "sigma", self.sigma, 0.01, 100)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(2)
        which = np.floor(3 * u[:, 0])  # 0: grey, 1: solarised, 2: blurred
        sigmas = self.sigma[0] + u[:, 1] * (self.sigma[1] - self.sigma[0])
        out = images.clone()
        on_rows_(out, np.flatnonzero(which == 0), _grey)
        on_rows_(out, np.flatnonzero(which == 1), lambda x: solarize(x, self.threshold))
        return on_rows_(out, np.flatnonzero(which == 2), lambda x, s: gaussian_blur(x, s, self.sigma[1]), sigmas)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Float in [0, 1]: values of `threshold` and above inverted."""
    return torch.where(images >= threshold, 1 - images, images)


def _grey(images: Tensor) -> Tensor:
    return luma(images).repeat(1, images.shape[1], 1, 1)


augmentations.add(Grayscale, {"grayscale": {}})
augmentations.add(Solarize, {"solarize": {}})
augmentations.add(ThreeAugment, {"three_augment": {}})
