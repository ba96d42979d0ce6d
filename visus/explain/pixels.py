"""Between the pixels that a picture shows, in [0, 1], and the normalised images that a model takes.

A method that draws pixels has the fields `mean` and `std`, of the model's normalisation, channel by channel; None is a
model that takes [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.validate import require

Scale = tuple[float, ...] | None


@dataclass(frozen=True)
class PixelScale:
    """mean, std: [1, C, 1, 1]."""

    mean: Tensor
    std: Tensor

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised [B, C, H, W] -> [0, 1]; what lies outside is cut off."""
        return (images * self.std + self.mean).clamp(0, 1)

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


def pixel_scale(images: Tensor, mean: Scale, std: Scale) -> PixelScale:
    """Of images [B, C, H, W]. Raises UserError for values that do not fit the channels."""
    channels = images.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        require(values is None or (isinstance(values, tuple | list) and len(values) == channels
                                   and all(isinstance(value, int | float) for value in values)),
                name, values, f"hold a number for each of the {channels} channels")
    require(std is None or min(std) > 0, "std", std, "be above 0")
    return PixelScale(*(torch.tensor([default] * channels if values is None else values).to(images).view(1, -1, 1, 1)
                        for values, default in ((mean, 0.0), (std, 1.0))))
