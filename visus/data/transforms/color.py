"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_range

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors from [1 - x, 1 + x], hue by a turn from +-hue (0.5: half circle),
    in that order, with `probability` (after Howard 2013, "Some improvements on deep convolutional neural network based
    image classification"). Grey images have brightness and contrast only.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("brightness", "contrast", "saturation", "probability"):
            check_range(self, field, getattr(self, field), 0, 1)
        check_range(self, "hue", self.hue, 0, 0.5)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(5)
        chosen = u[:, 4] < self.probability
        spread = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        change = (2 * u[:, :4] - 1) * spread * chosen[:, None]  # 0: unchanged
        factors = torch.from_numpy(change.astype(np.float32)).to(images.device)[:, :, None, None, None]
        if self.brightness:
            images = (images * (1 + factors[:, 0])).clamp(0, 1)
        if self.contrast:
            images = adjust_contrast(images, 1 + factors[:, 1])
        if images.shape[1] == 3:
            if self.saturation:
                images = _blend(images, luma(images), 1 + factors[:, 2])
            if self.hue:
                turned = adjust_hue(images, factors[:, 3])
                images = torch.where(factors[:, 3] != 0, turned, images)
        return images


def luma(images: Tensor) -> Tensor:
    """float [B, 3 or 1, H, W] -> [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Towards (factor below 1) or away from the mean luma of each image. factors: [B, 1, 1, 1]."""
    # rows first: the sums are then the same for any number of threads
    mean = luma(images).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return _blend(images, mean, factors)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """The hue of float RGB [B, 3, H, W] turned by `turns` [B, 1, 1, 1] of a full circle, in the HSV model (Smith 1978,
    "Color gamut transform pairs")."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sixth = torch.where(value == red, (green - blue) / safe,
                        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe))
    hue = torch.remainder(sixth / 6 + turns[:, 0], 1.0) * 6  # [B, H, W] in [0, 6)
    channels = []
    for offset in (5.0, 3.0, 1.0):  # channel = value - chroma * max(0, min(k, 4 - k, 1)), k = (offset + hue) mod 6
        k = torch.remainder(hue + offset, 6.0)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return (factors * images + (1 - factors) * other).clamp(0, 1)


augmentations.add(ColorJitter, {"color_jitter": {}})
