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

_REACH = 3.0  # standard deviations on each side of the kernel


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
        chosen = torch.from_numpy(np.flatnonzero(u[:, 1] < self.probability)).to(images.device)
        blurred = gaussian_blur(images.index_select(0, chosen), sigmas[chosen.cpu().numpy()], self.sigma[1])
        return images.index_copy(0, chosen, blurred)


def gaussian_blur(images: Tensor, sigmas: np.ndarray, largest: float) -> Tensor:
    """Float [B, C, H, W], each image convolved with its own Gaussian [B]; kernels reach 3 * largest pixels far."""
    batch, channels, height, width = images.shape
    if not batch:
        return images
    reach = math.ceil(_REACH * largest)
    offsets = np.arange(-reach, reach + 1)
    kernels = np.exp(-0.5 * (offsets / np.asarray(sigmas, np.float64)[:, None]) ** 2)
    kernels /= kernels.sum(1, keepdims=True)
    weights = torch.from_numpy(kernels.astype(np.float32)).to(images.device).repeat_interleave(channels, 0)
    planes = F.pad(images, (reach,) * 4, mode="replicate").reshape(1, batch * channels, height + 2 * reach, -1)
    planes = F.conv2d(planes, weights[:, None, None, :], groups=batch * channels)
    planes = F.conv2d(planes, weights[:, None, :, None], groups=batch * channels)
    return planes.view(batch, channels, height, width)


augmentations.add(GaussianBlur, {"gaussian_blur": {}})
