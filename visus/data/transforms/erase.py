"""Parts of the image covered by a rectangle, flat or of noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.groups import on_chosen
from visus.data.transforms.noise import pixel_starts, pixel_steps

_ATTEMPTS = 10


@dataclass(frozen=True)
class Cutout:
    """A square of `size` (share of the shorter side) about a random pixel, cut off at the border (DeVries and Taylor
    2017, "Improved regularization of convolutional neural networks with cutout"), with `probability`. fill: its
    value in [0, 1]."""

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
    `probability` (Zhong et al. 2017, "Random erasing data augmentation", algorithm 1).

    fill: its value in [0, 1], or 'random', which gives every pixel and channel its own (best in the paper, table 5).
    A rectangle that is longer than the image is drawn again, up to ten times, and then cut to it.
    """

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: float | Literal["random"] = 0.5
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "probability", self.probability, 0, 1)
        if self.fill != "random":
            if isinstance(self.fill, str):
                raise RecipeError("must be a number from 0 to 1, or 'random'",
                                  where=f"augmentation.RandomErasing.fill={self.fill!r}")
            check_range(self, "fill", self.fill, 0, 1)
        check_interval(self, "scale", self.scale, 0, 1)
        check_interval(self, "ratio", self.ratio, 0.01, 100)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        u = draws.uniform(5)
        h, w = self._sides(u[:, :2], height, width)
        for attempt in range(1, _ATTEMPTS):
            again = np.flatnonzero((h > height) | (w > width))
            if not len(again):
                break
            more = Draws(draws.index[again], draws.seed, draws.epoch, f"{draws.stream} {attempt}").uniform(2)
            h[again], w[again] = self._sides(more, height, width)
        h, w = h.clip(0, height), w.clip(0, width)
        h = np.where(u[:, 4] < self.probability, h, 0)
        top = np.floor(u[:, 2] * (height - h + 1)).astype(np.int64)
        left = np.floor(u[:, 3] * (width - w + 1)).astype(np.int64)
        if self.fill != "random":
            return cover(images, top, left, h, w, self.fill)
        done = h > 0

        def erased(some: Tensor, starts: np.ndarray, *box: np.ndarray) -> Tensor:
            noise = pixel_steps(starts, tuple(some.shape[1:])).astype(np.float32) / 65535
            return torch.where(inside(some, *box), torch.from_numpy(noise).to(some), some)
        return on_chosen(images, done, erased, pixel_starts(draws), top, left, h, w)

    def _sides(self, u: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [B]: heights and widths from two uniform numbers [B, 2] each."""
        area = height * width * (self.scale[0] + u[:, 0] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = np.exp(low + u[:, 1] * (high - low))
        return np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)


def cover(images: Tensor, top: np.ndarray, left: np.ndarray, heights: np.ndarray, widths: np.ndarray,
          fill: float) -> Tensor:
    """The rectangle of each image [B, C, H, W] set to `fill`; one of no height or width covers nothing."""
    return images.masked_fill(inside(images, top, left, heights, widths), fill)


def inside(images: Tensor, top: np.ndarray, left: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> Tensor:
    """bool [B, 1, H, W]: the pixels of each image's rectangle."""
    rows, columns = np.arange(images.shape[-2]), np.arange(images.shape[-1])
    in_rows = (rows >= top[:, None]) & (rows < (top + heights)[:, None])  # [B, H]
    in_columns = (columns >= left[:, None]) & (columns < (left + widths)[:, None])  # [B, W]
    return torch.from_numpy(in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(images.device)


augmentations.add(Cutout, {"cutout": {}})
augmentations.add(RandomErasing, {"random_erasing": {}})
