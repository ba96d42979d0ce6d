"""An image drawn large or small before a window of fixed size is cut from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.placement import (
    MIN_VISIBLE,
    Geometric,
    Placement,
    check_fill,
    check_sizes,
    resizing,
    window,
)
from visus.data.transforms.resize import fitted_size, side_size


@dataclass(frozen=True)
class ScaleJitter(Geometric):
    """Short side drawn from `short`, whole pixels, both ends included; then a random window of `size` (Simonyan and
    Zisserman, VGG, ICLR 2015, section 3.1). What is smaller than the window is padded with black. min_visible: objects
    of which less stays are dropped.
    """

    size: int | tuple[int, int] = 224
    short: tuple[int, int] = (256, 512)
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes(self, "size", self.size)
        check_interval(self, "short", self.short, 1, 16384)
        check_sizes(self, "short", self.short)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        u = draws.uniform(3)[0]
        side = self.short[0] + math.floor(u[0] * (self.short[1] - self.short[0] + 1))
        new_height, new_width = side_size(height, width, side, "short")
        rows, columns = check_sizes(self, "size", self.size)
        return (resizing(height, width, new_height, new_width),
                random_window(new_height, new_width, rows, columns, u[1:], (0.0,), self.min_visible))


@dataclass(frozen=True)
class LargeScaleJitter(Geometric):
    """The image scaled by a factor from `scale` times what fits it into `size`, then a random window of `size`; a
    smaller image lies in its upper left corner on `fill` (Ghiasi et al., copy-paste, CVPR 2021, section 3.1).
    min_visible: objects of which less stays are dropped.
    """

    size: int | tuple[int, int] = 1024
    scale: tuple[float, float] = (0.1, 2.0)
    fill: float | tuple[float, float, float] = 0.5
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes(self, "size", self.size)
        check_interval(self, "scale", self.scale, 0.01, 10)
        check_fill(self, self.fill)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        u = draws.uniform(3)[0]
        factor = self.scale[0] + u[0] * (self.scale[1] - self.scale[0])
        rows, columns = check_sizes(self, "size", self.size)
        new_height, new_width = fitted_size(height, width, *(max(1, round(side * factor)) for side in (rows, columns)))
        return (resizing(height, width, new_height, new_width),
                random_window(new_height, new_width, rows, columns, u[1:], check_fill(self, self.fill),
                              self.min_visible))


def random_window(height: int, width: int, rows: int, columns: int, u: np.ndarray, fill: tuple[float, ...],
                  min_visible: float) -> Placement:
    """`rows` x `columns` of an image of `height` x `width`, at a place drawn by `u` [2] from all that lie inside; along
    a side where none does, the image's start."""
    top = math.floor(u[0] * (max(height - rows, 0) + 1))
    left = math.floor(u[1] * (max(width - columns, 0) + 1))
    return window(top, left, rows, columns, fill=fill, min_visible=min_visible)


augmentations.add(ScaleJitter, {"scale_jitter": {}})
augmentations.add(LargeScaleJitter, {"large_scale_jitter": {}})
