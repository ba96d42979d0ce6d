"""The image as if seen from another side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.placement import MIN_VISIBLE, Geometric, Placement, check_fill


@dataclass(frozen=True)
class Perspective(Geometric):
    """Each corner moved inwards by up to `distortion` of half the width and half the height, with `probability`;
    around it is `fill`. min_visible: objects of which less stays are dropped."""

    distortion: float = 0.5
    probability: float = 0.5
    fill: float | tuple[float, float, float] = 0.0
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "distortion", self.distortion, 0, 0.95)
        check_range(self, "probability", self.probability, 0, 1)
        check_fill(self, self.fill)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        u = draws.uniform(9)[0]
        if u[8] >= self.probability:
            return ()
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        moved = corners + inwards * u[:8].reshape(4, 2) * self.distortion * np.array([width, height]) / 2
        return (Placement(matrix=homography(corners, moved), height=height, width=width,
                          fill=check_fill(self, self.fill), min_visible=self.min_visible),)


def homography(points: np.ndarray, images: np.ndarray) -> np.ndarray:
    """float64 [3, 3]: the projective map of four points [4, 2], no three of them in a line, to their images [4, 2].

    The eight linear equations of Hartley and Zisserman, Multiple View Geometry, section 4.1, with the last entry 1.
    """
    (x, y), (u, v) = points.T, images.T
    one, zero = np.ones(4), np.zeros(4)
    equations = np.concatenate([np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1),
                                np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1)])
    return np.append(np.linalg.solve(equations, np.concatenate([u, v])), 1.0).reshape(3, 3)


augmentations.add(Perspective, {"perspective": {}})
