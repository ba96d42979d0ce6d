"""Operations on the 256 levels of an image: posterize, equalize, autocontrast, invert.

The functions take and give uint8 [B, C, H, W] (`as_levels` brings floats there and back).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.groups import on_chosen, per_image


@dataclass(frozen=True)
class Posterize:
    """Only the highest `bits` of each value's 8 are kept, with `probability`."""

    bits: int = 4
    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int):
            raise RecipeError("must be a whole number", where=f"augmentation.Posterize.bits={self.bits!r}")
        check_range(self, "bits", self.bits, 0, 8)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return on_chosen(images, draws.uniform(1)[:, 0] < self.probability,
                         as_levels(posterize), np.full(len(images), self.bits))


@dataclass(frozen=True)
class Equalize:
    """Each channel's histogram made as even as its levels allow, with `probability`."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return on_chosen(images, draws.uniform(1)[:, 0] < self.probability, as_levels(equalize))


@dataclass(frozen=True)
class AutoContrast:
    """Each channel stretched so that its darkest value is 0 and its brightest 1, with `probability`."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return on_chosen(images, draws.uniform(1)[:, 0] < self.probability, as_levels(autocontrast))


@dataclass(frozen=True)
class Invert:
    """Every value becomes 1 - value, with `probability`."""

    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return on_chosen(images, draws.uniform(1)[:, 0] < self.probability,
                         lambda x: invert(x) if x.dtype == torch.uint8 else 1 - x)


def as_levels(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`work` on uint8, for floats in [0, 1] too: they are rounded to 255ths, and come back as floats."""
    def on_any(images: Tensor, *numbers: np.ndarray) -> Tensor:
        if images.dtype == torch.uint8:
            return work(images, *numbers)
        return from_levels(work(to_levels(images), *numbers), images.dtype)
    return on_any


def to_levels(images: Tensor) -> Tensor:
    """Float in [0, 1] -> uint8, rounded."""
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def from_levels(levels: Tensor, dtype: torch.dtype) -> Tensor:
    return levels.to(dtype).div_(255)


def posterize(images: Tensor, bits: np.ndarray) -> Tensor:
    """bits: whole numbers [B] of 0 to 8."""
    return images & per_image(256 - (256 >> np.asarray(bits, np.int64)), images, torch.uint8)


def solarize_levels(images: Tensor, thresholds: np.ndarray) -> Tensor:
    """Values of the threshold [B], in 0..255, and above inverted."""
    bright = images >= per_image(np.ceil(thresholds), images, torch.uint8)
    return images ^ bright.view(torch.uint8).mul_(255)


def invert(images: Tensor) -> Tensor:
    return images.bitwise_not()


def autocontrast(images: Tensor) -> Tensor:
    """A channel of one value only stays as it is."""
    low = images.amin((2, 3), keepdim=True).to(torch.float32)
    span = images.amax((2, 3), keepdim=True) - low
    flat = span == 0
    scale = torch.where(flat, torch.ones_like(span), span * (1 / 255))
    stretched = (images - torch.where(flat, torch.zeros_like(low), low)).div_(scale)
    return stretched.clamp_(0, 255).to(torch.uint8)


def equalize(images: Tensor) -> Tensor:
    """Value v becomes (step // 2 + number of pixels below v) // step, where step is a 255th of the pixels that are not
    of the brightest value; a channel of less than 255 such pixels stays as it is."""
    batch, channels, height, width = images.shape
    planes = batch * channels
    # one list of levels for all planes: level v of plane p is 256 p + v
    place = images.reshape(planes, -1).to(torch.int64, memory_format=torch.contiguous_format)
    place += torch.arange(planes, device=images.device)[:, None] * 256
    counts = torch.bincount(place.view(-1), minlength=planes * 256).view(planes, 256)
    levels = torch.arange(256, device=images.device)
    brightest = torch.where(counts > 0, levels, 0).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, brightest)) // 255  # [P, 1]
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step > 0, table, levels).to(torch.uint8)
    return table.view(-1).index_select(0, place.view(-1)).view(images.shape)


augmentations.add(Posterize, {"posterize": {}})
augmentations.add(Equalize, {"equalize": {}})
augmentations.add(AutoContrast, {"autocontrast": {}})
augmentations.add(Invert, {"invert": {}})
