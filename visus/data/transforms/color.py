"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.groups import on_chosen, on_rows_, per_image

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors from [1 - x, 1 + x], hue by a turn from +-hue (0.5: half circle),
    with `probability` (after Howard 2013, "Some improvements on deep convolutional neural network based image
    classification", where the order is random). order: 'fixed' (as above) or 'random', another for each image. Grey
    images have brightness and contrast only.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0
    order: Literal["fixed", "random"] = "fixed"
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("brightness", "contrast", "saturation", "probability"):
            check_range(self, field, getattr(self, field), 0, 1)
        check_range(self, "hue", self.hue, 0, 0.5)
        if self.order not in ("fixed", "random"):
            raise RecipeError("must be 'fixed' or 'random'", where=f"augmentation.ColorJitter.order={self.order!r}")

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(9)
        spread = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        change = ((2 * u[:, :4] - 1) * spread).astype(np.float32)  # 0: unchanged
        used = [kind for kind in range(4 if images.shape[1] == 3 else 2) if spread[kind]]
        chosen = u[:, 4] < self.probability
        if self.order == "fixed":
            return on_chosen(images, chosen, lambda x, c: _jittered(x, c, used), change)
        order = np.argsort(u[:, 5:], 1)
        images = images.clone()
        for place in range(4):
            for kind in used:
                on_rows_(images, np.flatnonzero(chosen & (order[:, place] == kind)), _KINDS[kind], change[:, kind])
        return images


def _jittered(images: Tensor, change: np.ndarray, used: list[int]) -> Tensor:
    """change: float32 [B, 4] of the four kinds."""
    for kind in used:
        images = _KINDS[kind](images, change[:, kind])
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
    hue = sixth + 6 * turns[:, 0]
    hue = hue - 6 * (hue / 6).floor()  # [B, H, W] in [0, 6)
    # how pure red, green and blue are at this hue: 1 around 0, 2 and 4, falling to 0 over a sixth on both sides
    pure = torch.stack([(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()], 1)
    return pure.clamp_(0, 1).sub_(1).mul(chroma[:, None]).add_(value[:, None])


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    return (factors * images + (1 - factors) * other).clamp(0, 1)


_KINDS: tuple[Callable[[Tensor, np.ndarray], Tensor], ...] = (
    lambda x, change: (x * (1 + per_image(change, x))).clamp_(0, 1),
    lambda x, change: adjust_contrast(x, 1 + per_image(change, x)),
    lambda x, change: _blend(x, luma(x), 1 + per_image(change, x)),
    lambda x, change: adjust_hue(x, per_image(change, x)))

augmentations.add(ColorJitter, {"color_jitter": {}})
