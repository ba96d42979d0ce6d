"""The photometric distortion of SSD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.channels import with_channels
from visus.data.transforms.color import adjust_hue
from visus.data.transforms.groups import on_chosen, per_image
from visus.data.transforms.hsv import scale_saturation


@dataclass(frozen=True)
class SSDDistortion:
    """Brightness, contrast, saturation and hue, each with `probability` (Liu et al. 2016, "SSD: single shot multibox
    detector", section 2.2, after Howard 2013; amounts and order are those of the authors' code).

    brightness: added, up to +-. contrast: times, for half of the images before saturation and hue, for the others
    after. saturation: times, in the HSV model. hue: up to +- of a full circle. shuffle: the probability of a random
    order of the channels (none in the authors' training). Grey images have brightness and contrast only.
    """

    brightness: float = 32 / 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 0.05
    shuffle: float = 0.0
    probability: float = 0.5
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "brightness", self.brightness, 0, 1)
        check_interval(self, "contrast", self.contrast, 0, 100)
        check_interval(self, "saturation", self.saturation, 0, 100)
        check_range(self, "hue", self.hue, 0, 0.5)
        check_range(self, "shuffle", self.shuffle, 0, 1)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        channels = images.shape[1]
        u = draws.uniform(10 + channels)
        images = on_chosen(images, np.ones(len(images), bool), self._distorted, u)
        if channels == 3 and self.shuffle:
            order = np.where(u[:, 9:10] < self.shuffle, np.argsort(u[:, 10:], 1), np.arange(channels))
            images = with_channels(images, order)
        return images

    def _distorted(self, images: Tensor, u: np.ndarray) -> Tensor:
        """u: [B, 9], four choices, four amounts, and whether contrast comes first."""
        done = u[:, :4] < self.probability
        contrast = self.contrast[0] + u[:, 5] * (self.contrast[1] - self.contrast[0])
        early = u[:, 8] < 0.5
        images = on_chosen(images, done[:, 0], _added, self.brightness * (2 * u[:, 4] - 1))
        images = on_chosen(images, done[:, 1] & early, _times, contrast)
        if images.shape[1] == 3:
            factors = self.saturation[0] + u[:, 6] * (self.saturation[1] - self.saturation[0])
            images = on_chosen(images, done[:, 2], lambda x, f: scale_saturation(x, per_image(f, x)), factors)
            turns = self.hue * (2 * u[:, 7] - 1)
            images = on_chosen(images, done[:, 3], lambda x, t: adjust_hue(x, per_image(t, x)), turns)
        return on_chosen(images, done[:, 1] & ~early, _times, contrast)


def _added(images: Tensor, shift: np.ndarray) -> Tensor:
    return (images + per_image(shift, images)).clamp_(0, 1)


def _times(images: Tensor, factors: np.ndarray) -> Tensor:
    return (images * per_image(factors, images)).clamp_(0, 1)


augmentations.add(SSDDistortion, {"ssd_distortion": {}})
