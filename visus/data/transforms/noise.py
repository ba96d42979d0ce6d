"""Noise on pixels: Gaussian, and salt and pepper. Each pixel's number is a function of (seed, epoch, sample, pixel)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.core.seeds import hash64
from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.groups import on_chosen

_STEPS = 1 << 16  # different numbers that one pixel can draw


@dataclass(frozen=True)
class GaussianNoise:
    """A normal number added to each value, its standard deviation drawn from `std` (in units of [0, 1]) for each image,
    with `probability`."""

    std: tuple[float, float] = (0.0, 0.1)
    probability: float = 0.5
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self, "std", self.std, 0, 10)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(2)
        std = (self.std[0] + u[:, 0] * (self.std[1] - self.std[0])).astype(np.float32)

        def noisy(some: Tensor, starts: np.ndarray, std: np.ndarray) -> Tensor:
            noise = _normal_steps()[pixel_steps(starts, tuple(some.shape[1:]))]
            noise *= std[:, None, None, None]
            return (some + torch.from_numpy(noise).to(some)).clamp_(0, 1)
        return on_chosen(images, u[:, 1] < self.probability, noisy, pixel_starts(draws), std)


@dataclass(frozen=True)
class SaltPepperNoise:
    """A share of the pixels, drawn from `amount` for each image, becomes white or black, with `probability`. salt: the
    share of white ones among them. Exact on uint8 and float."""

    amount: tuple[float, float] = (0.0, 0.05)
    salt: float = 0.5
    probability: float = 0.5
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self, "amount", self.amount, 0, 1)
        check_range(self, "salt", self.salt, 0, 1)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(2)
        amount = self.amount[0] + u[:, 0] * (self.amount[1] - self.amount[0])

        def noisy(some: Tensor, starts: np.ndarray, amount: np.ndarray) -> Tensor:
            step = pixel_steps(starts, (1, *some.shape[2:]))
            hit = np.rint(amount * _STEPS)[:, None, None, None]
            white = np.rint(amount * self.salt * _STEPS)[:, None, None, None]
            out = some.masked_fill(torch.from_numpy(step < hit).to(some.device), 0)
            return out.masked_fill_(torch.from_numpy(step < white).to(some.device),
                                    255 if some.dtype == torch.uint8 else 1.0)
        return on_chosen(images, u[:, 1] < self.probability, noisy, pixel_starts(draws), amount)


def pixel_starts(draws: Draws) -> np.ndarray:
    """uint64 [B]: where the pixels' counter of each sample begins."""
    return hash64(draws.index, draws.seed, draws.epoch, draws.stream, "pixels")


def pixel_steps(starts: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """uint16 [B, *shape]: whole numbers of equal chance, of which each 64-bit hash gives four."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        place = starts[:, None] + np.arange(-(-count // 4), dtype=np.uint64)
    return hash64(place).view(np.uint16)[:, :count].reshape(len(place), *shape)


@cache
def _normal_steps() -> np.ndarray:
    """float32 [65536]: the normal quantile in the middle of each step."""
    probability = torch.from_numpy((np.arange(_STEPS) + 0.5) / _STEPS)
    return (math.sqrt(2) * torch.erfinv(2 * probability - 1)).to(torch.float32).numpy()


augmentations.add(GaussianNoise, {"gaussian_noise": {}})
augmentations.add(SaltPepperNoise, {"salt_pepper_noise": {}})
