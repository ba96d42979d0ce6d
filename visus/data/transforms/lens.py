"""The bent lines of a lens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visus.core.errors import RecipeError
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.placement import MIN_VISIBLE, Geometric, Placement, check_fill


@dataclass(frozen=True)
class LensDistortion(Geometric):
    """Radial distortion about the centre: a point at radius r shows what was at r (1 + a r^2 + b r^4), where r is 1 in
    the corners (Brown, "Close-range camera calibration", Photogrammetric Engineering 1971, equation 10), with
    `probability`. a is drawn from +-k1, b from +-k2: above 0 the image becomes a barrel, below it a pincushion.

    Around it is `fill`. 3 k1 + 5 k2 stays below 0.95: beyond, a part of the image may be seen twice. min_visible:
    objects of which less stays are dropped.
    """

    k1: float = 0.2
    k2: float = 0.0
    probability: float = 0.5
    fill: float | tuple[float, float, float] = 0.0
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("k1", "k2", "probability", "min_visible"):
            check_range(self, field, getattr(self, field), 0, 1)
        if 3 * self.k1 + 5 * self.k2 > 0.95:
            raise RecipeError("3 k1 + 5 k2 must be at most 0.95",
                              where=f"augmentation.LensDistortion.k1={self.k1:g}, k2={self.k2:g}")
        check_fill(self, self.fill)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        u = draws.uniform(3)[0]
        if u[2] >= self.probability:
            return ()
        field = radial_field(height, width, self.k1 * (2 * u[0] - 1), self.k2 * (2 * u[1] - 1))
        return (Placement(matrix=np.eye(3), height=height, width=width, field=field, fill=check_fill(self, self.fill),
                          min_visible=self.min_visible),)


def radial_field(height: int, width: int, k1: float, k2: float) -> np.ndarray:
    """float64 [height, width, 2]: from each pixel's centre to the place that it shows."""
    x, y = np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    square = (x**2 + y[:, None] ** 2) / ((width**2 + height**2) / 4)  # r^2, [height, width]
    factor = k1 * square + k2 * square**2
    return np.stack([factor * x, factor * y[:, None]], -1)


augmentations.add(LensDistortion, {"lens_distortion": {}})
