"""Parts of the image covered by a flat rectangle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from visus.data.transforms import Draws, augmentations, check_interval, check_range


@dataclass(frozen=True)
class Cutout:
    """A square of `size` (share of the shorter side) about a random pixel, cut off at the border (DeVries and Taylor
    2017, "Improved regularization of convolutional neural networks with cutout"). fill: its value in [0, 1]."""

    size: float = 0.5
    fill: float = 0.5
    probability: float = 1.0
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("size", "fill", "probability"):
            check_range(self, field, getattr(self, field), 0, 1)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        u = draws.uniform(3)
        side = max(1, round(self.size * min(height, width)))
        top = np.floor(u[:, 0] * height).astype(np.int64) - side // 2
        left = np.floor(u[:, 1] * width).astype(np.int64) - side // 2
        sides = np.where(u[:, 2] < self.probability, side, 0)
        return cover(images, top, left, sides, sides, self.fill)


@dataclass(frozen=True)
class RandomErasing:
    """A rectangle of random area (`scale`, share of the image) and aspect (`ratio`, height over width), with
    `probability` (Zhong et al. 2017, "Random erasing data augmentation"). fill: its value in [0, 1]. A rectangle that
    is longer than the image is cut to it."""

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: float = 0.5
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("fill", "probability"):
            check_range(self, field, getattr(self, field), 0, 1)
        check_interval(self, "scale", self.scale, 0, 1)
        check_interval(self, "ratio", self.ratio, 0.01, 100)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        u = draws.uniform(5)
        area = height * width * (self.scale[0] + u[:, 0] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = np.exp(low + u[:, 1] * (high - low))
        h = np.rint(np.sqrt(area * ratio)).clip(0, height).astype(np.int64)
        w = np.rint(np.sqrt(area / ratio)).clip(0, width).astype(np.int64)
        h = np.where(u[:, 4] < self.probability, h, 0)
        top = np.floor(u[:, 2] * (height - h + 1)).astype(np.int64)
        left = np.floor(u[:, 3] * (width - w + 1)).astype(np.int64)
        return cover(images, top, left, h, w, self.fill)


def cover(images: Tensor, top: np.ndarray, left: np.ndarray, heights: np.ndarray, widths: np.ndarray,
          fill: float) -> Tensor:
    """The rectangle of each image [B, C, H, W] set to `fill`; one of no height or width covers nothing."""
    rows, columns = np.arange(images.shape[-2]), np.arange(images.shape[-1])
    in_rows = (rows >= top[:, None]) & (rows < (top + heights)[:, None])  # [B, H]
    in_columns = (columns >= left[:, None]) & (columns < (left + widths)[:, None])  # [B, W]
    covered = torch.from_numpy(in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(images.device)
    return images.masked_fill(covered, fill)


augmentations.add(Cutout, {"cutout": {}})
augmentations.add(RandomErasing, {"random_erasing": {}})
