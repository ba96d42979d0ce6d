"""Brightness, contrast, colour and sharpness of uint8 images by a factor each: 0 takes it away, 1 changes nothing.

As Pillow's ImageEnhance: a blend of the image with one that has none of it. Results are rounded down to whole levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.color import luma
from visus.data.transforms.groups import on_chosen, per_image
from visus.data.transforms.levels import as_levels


@dataclass(frozen=True)
class Sharpness:
    """Sharper or softer by a factor drawn from `factor` (0: smoothed by a 3 x 3 kernel, 1: unchanged, 2: sharpened),
    with `probability`."""

    factor: tuple[float, float] = (0.1, 1.9)
    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self, "factor", self.factor, 0, 100)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(2)
        factors = self.factor[0] + u[:, 0] * (self.factor[1] - self.factor[0])
        return on_chosen(images, u[:, 1] < self.probability, as_levels(sharpness), factors)


def brightness(images: Tensor, factors: np.ndarray) -> Tensor:
    """uint8 [B, C, H, W] blended with black by factors [B] of 0 and more."""
    return images.mul(per_image(factors, images)).clamp_(0, 255).to(torch.uint8)


def contrast(images: Tensor, factors: np.ndarray) -> Tensor:
    """uint8 [B, C, H, W] blended with the mean luma of each image by factors [B]."""
    grey = whole_luma(images)
    # sums of whole numbers: the same in any order
    mean = grey.sum((1, 2, 3), dtype=torch.float64, keepdim=True) / (grey.shape[2] * grey.shape[3])
    return _blended(images, mean.to(torch.float32), factors)


def saturation(images: Tensor, factors: np.ndarray) -> Tensor:
    """uint8 [B, C, H, W] blended with their luma by factors [B]; grey images stay as they are."""
    return images if images.shape[1] == 1 else _blended(images, whole_luma(images), factors)


def sharpness(images: Tensor, factors: np.ndarray) -> Tensor:
    """uint8 [B, C, H, W] blended with their 3 x 3 means, the centre weighing 5 of 13, by factors [B]; the border pixels
    stay as they are."""
    if min(images.shape[-2:]) <= 2:
        return images
    wide = images.to(torch.int16)
    centre = wide[..., 1:-1, 1:-1]
    rows = wide[..., :-2, :] + wide[..., 1:-1, :]
    rows += wide[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1]
    total += rows[..., 2:]
    total += 4 * centre
    soft = total.to(torch.float32).mul_(1 / 13).round_()
    sharp = soft.sub_(centre).mul_(1 - per_image(factors, images)).add_(centre)
    out = images.clone()
    out[..., 1:-1, 1:-1] = sharp.clamp_(0, 255)
    return out


def whole_luma(images: Tensor) -> Tensor:
    """uint8 [B, 3 or 1, H, W] -> whole float32 [B, 1, H, W], rounded down."""
    return luma(images.to(torch.float32)).floor_() if images.shape[1] == 3 else images.to(torch.float32)


def _blended(images: Tensor, other: Tensor, factors: np.ndarray) -> Tensor:
    factor = per_image(factors, images)
    return images.mul(factor).add_(other * (1 - factor)).clamp_(0, 255).to(torch.uint8)


augmentations.add(Sharpness, {"sharpness": {}})
