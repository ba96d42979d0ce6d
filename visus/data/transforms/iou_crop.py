"""Crops that are chosen by how much of an object they hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visus.core.errors import RecipeError
from visus.core.seeds import uniform
from visus.data.transforms import Draws, augmentations, check_interval
from visus.data.transforms.placement import Geometric, Placement, window

_TRIALS = 50


@dataclass(frozen=True)
class MinIoUCrop(Geometric):
    """One of these, equally likely: the whole image; for each of `overlaps` a patch whose Jaccard overlap with at least
    one object is that much; any patch (Liu et al., SSD, ECCV 2016, section 2.2, data augmentation).

    scale: the patch's area as a share of the image's, drawn evenly in its square root. ratio: width over height, in
    shares of the image's. An object stays, cut off, when its centre lies in the patch. Of 50 patches the first that
    does is taken, else the image stays whole, as it does without boxes. Exact on uint8 and float.
    """

    overlaps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    scale: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (0.5, 2.0)
    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False
    varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.overlaps, tuple) or not all(
                isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in self.overlaps):
            raise RecipeError("must be a list of numbers from 0 to 1",
                              where=f"augmentation.MinIoUCrop.overlaps={self.overlaps!r}")
        check_interval(self, "scale", self.scale, 1e-4, 1)
        check_interval(self, "ratio", self.ratio, 0.01, 100)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        option = int(draws.uniform(1)[0, 0] * (len(self.overlaps) + 2)) - 1  # -1: whole; the last: any patch
        if option < 0 or boxes is None or not len(boxes):
            return ()
        patches = self._patches(height, width, draws)
        if option < len(self.overlaps):
            patches = patches[(overlap(patches, boxes).max(1) >= self.overlaps[option])]
        if not len(patches):
            return ()
        left, top, right, bottom = patches[0].tolist()
        return (window(top, left, bottom - top, right - left, by_centre=True),)

    def _patches(self, height: int, width: int, draws: Draws) -> np.ndarray:
        """int64 [50, 4], x1 y1 x2 y2 inside the image."""
        u = uniform(draws.index[:, None] * 64 + np.arange(_TRIALS), draws.seed, draws.epoch, draws.stream, draws=4)[0]
        low, high = math.sqrt(self.scale[0]), math.sqrt(self.scale[1])
        side = low + u[:, 0] * (high - low)
        narrow = np.maximum(self.ratio[0], side**2)  # no wider and no higher than the image
        wide = np.maximum(np.minimum(self.ratio[1], 1 / side**2), narrow)
        ratio = np.sqrt(narrow + u[:, 1] * (wide - narrow))
        sizes = np.rint(np.stack([side * ratio * width, side / ratio * height], 1)).astype(np.int64)
        sizes = sizes.clip(1, [width, height])
        corner = np.floor(u[:, 2:] * (np.array([width, height]) - sizes + 1)).astype(np.int64)
        return np.concatenate([corner, corner + sizes], 1)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [A, B]: intersection over union of boxes [A, 4] and [B, 4], x1 y1 x2 y2; 0 where both have no area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


augmentations.add(MinIoUCrop, {"min_iou_crop": {}})
