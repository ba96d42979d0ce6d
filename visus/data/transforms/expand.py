"""The image small on a larger canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visus.data.transforms import Draws, augmentations, check_interval, check_range
from visus.data.transforms.placement import Geometric, Placement, check_fill, window


@dataclass(frozen=True)
class Expand(Geometric):
    """The image at a random place on a canvas `ratio` times as wide and high, filled with `fill`, with `probability`
    (Liu et al., SSD, ECCV 2016, section 3.6: objects become small, up to 16 times in area). `fill` is by default the
    mean colour of ImageNet, as there. Exact on uint8 and float; the size that follows is a step of its own."""

    ratio: tuple[float, float] = (1.0, 4.0)
    probability: float = 0.5
    fill: float | tuple[float, float, float] = (0.485, 0.456, 0.406)
    any_dtype: ClassVar[bool] = True
    resamples: ClassVar[bool] = False
    varies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self, "ratio", self.ratio, 1, 16)
        check_range(self, "probability", self.probability, 0, 1)
        check_fill(self, self.fill)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        u = draws.uniform(4)[0]
        if u[3] >= self.probability:
            return ()
        ratio = self.ratio[0] + u[0] * (self.ratio[1] - self.ratio[0])
        rows, columns = int(height * ratio), int(width * ratio)
        top, left = math.floor(u[1] * (rows - height + 1)), math.floor(u[2] * (columns - width + 1))
        return (window(-top, -left, rows, columns, fill=check_fill(self, self.fill)),)


augmentations.add(Expand, {"expand": {}})
