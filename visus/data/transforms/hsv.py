"""Hue, saturation and exposure changed in the HSV model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.color import adjust_hue
from visus.data.transforms.groups import on_chosen, per_image


@dataclass(frozen=True)
class HSVJitter:
    """Saturation and value in the HSV model times or divided by up to `saturation` and `exposure`, hue turned by up to
    +-hue of a full circle, with `probability` (Redmon et al. 2016, "You only look once", section 2.2: both by up to a
    factor of 1.5; a hue of 0.1 is YOLO9000's, section 2). Of grey images the exposure alone changes.
    """

    saturation: float = 1.5
    exposure: float = 1.5
    hue: float = 0.0
    probability: float = 1.0
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "saturation", self.saturation, 1, 100)
        check_range(self, "exposure", self.exposure, 1, 100)
        check_range(self, "hue", self.hue, 0, 0.5)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(6)

        def changed(some: Tensor, of: np.ndarray) -> Tensor:
            if some.shape[1] == 3:
                some = scale_saturation(some, per_image(_factor(self.saturation, of[:, 0], of[:, 1]), some))
                if self.hue:
                    some = adjust_hue(some, per_image(self.hue * (2 * of[:, 4] - 1), some))
            return (some * per_image(_factor(self.exposure, of[:, 2], of[:, 3]), some)).clamp_(0, 1)
        return on_chosen(images, u[:, 5] < self.probability, changed, u)


def scale_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Float RGB [B, 3, H, W], the saturation of its HSV model times factors [B, 1, 1, 1], at most 1.

    A channel is value - value * saturation * k, where k depends on the hue alone: no need to compute the hue.
    """
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    full = torch.where(chroma > 0, value / chroma.clamp(min=1e-12), torch.ones_like(value))  # 1 / saturation
    return torch.addcmul(value, images - value, torch.minimum(factors, full)).clamp_(0, 1)


def _factor(most: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[B]: uniform in [1, most], or one over it for half of the samples."""
    scale = 1 + u * (most - 1)
    return np.where(v < 0.5, scale, 1 / scale)


augmentations.add(HSVJitter, {"hsv_jitter": {}})
