"""Gaussian blur, each image by its own width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.groups import on_chosen

_REACH = 3.0  # standard deviations on each side of the kernel
_NOTHING = 1e-9  # a weight that changes no float32 in [0, 1]


@dataclass(frozen=True)
class GaussianBlur:
    """Blur by a Gaussian whose standard deviation, in pixels, is drawn from `sigma`, with `probability` (Chen et al.
    2020, SimCLR, appendix A). The border pixels go on beyond the image."""

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self, "sigma", self.sigma, 0.01, 100)
        check_range(self, "probability", self.probability, 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(2)
        sigmas = self.sigma[0] + u[:, 0] * (self.sigma[1] - self.sigma[0])
        return on_chosen(images, u[:, 1] < self.probability, lambda x, s: gaussian_blur(x, s, self.sigma[1]), sigmas)


def gaussian_blur(images: Tensor, sigmas: np.ndarray, largest: float) -> Tensor:
    """Float [B, C, H, W], each image convolved with its own Gaussian [B]; kernels reach 3 * largest pixels far."""
    if not len(images):
        return images
    reach = math.ceil(_REACH * largest)
    offsets = np.arange(reach + 1)
    kernels = np.exp(-0.5 * (offsets / np.asarray(sigmas, np.float64)[:, None]) ** 2)  # half of a symmetric one
    kernels /= kernels[:, :1] + 2 * kernels[:, 1:].sum(1, keepdims=True)
    used = int(np.flatnonzero((kernels > _NOTHING).any(0))[-1])
    weights = torch.from_numpy(kernels.astype(np.float32)).to(images)[..., None, None, None]  # [B, reach + 1, 1, 1, 1]
    for dim in (3, 2):
        size = images.shape[dim]
        padded = F.pad(images, (used, used, 0, 0) if dim == 3 else (0, 0, used, used), mode="replicate")
        images = images * weights[:, 0]
        for offset in range(1, used + 1):
            pair = padded.narrow(dim, used - offset, size) + padded.narrow(dim, used + offset, size)
            images.addcmul_(pair, weights[:, offset])
    return images


augmentations.add(GaussianBlur, {"gaussian_blur": {}})
