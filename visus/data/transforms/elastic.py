"""Smooth random deformations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from visus.core.errors import RecipeError
from visus.core.seeds import uniform
from visus.data.transforms import Draws, augmentations, check_range
from visus.data.transforms.placement import MIN_VISIBLE, Geometric, Outside, Placement

_REACH = 4.0  # standard deviations of the Gaussian on each side
_OUTSIDE: tuple[Outside, ...] = ("fill", "border", "reflect", "symmetric")


@dataclass(frozen=True)
class Elastic(Geometric):
    """Each pixel moved by its own random vector, uniform in [-1, 1]^2, smoothed by a Gaussian of `sigma` pixels and
    multiplied by `alpha`, with `probability` (Simard et al., ICDAR 2003, section 2, with its values for MNIST).

    The vectors are drawn beyond the image too, so that its border moves like its middle. Where alpha is far above
    sigma^2 the image folds, and points have no single place any more. outside: what is shown beyond the image: 'fill'
    (black), 'border', 'reflect' or 'symmetric'. min_visible: objects of which less stays are dropped.
    """

    alpha: float = 34.0
    sigma: float = 4.0
    probability: float = 0.5
    outside: Outside = "reflect"
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "alpha", self.alpha, 0, 1e5)
        check_range(self, "sigma", self.sigma, 0.1, 200)
        _check(self, self.probability, self.outside, self.min_visible)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        if draws.uniform(1)[0, 0] >= self.probability:
            return ()
        reach = math.ceil(_REACH * self.sigma)
        noise = 2 * _noise(draws, height + 2 * reach, width + 2 * reach) - 1
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        weights /= weights.sum()
        field = self.alpha * _smoothed(noise, weights)
        return (Placement(matrix=np.eye(3), height=height, width=width, field=field, outside=self.outside,
                          min_visible=self.min_visible),)


@dataclass(frozen=True)
class ElasticGrid(Geometric):
    """Random vectors on a coarse grid of `grid` x `grid` points, normal with a standard deviation of `sigma` pixels,
    and each pixel moved by their bicubic interpolation, with `probability` (Ronneberger et al., U-Net, MICCAI 2015,
    section 3.1, with its values, for images of 512 pixels).

    The outer points of the grid lie on the image's edges. outside, min_visible: as of `Elastic`.
    """

    grid: int = 3
    sigma: float = 10.0
    probability: float = 0.5
    outside: Outside = "reflect"
    min_visible: float = MIN_VISIBLE
    any_dtype: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(self, "grid", self.grid, 2, 32)
        if not isinstance(self.grid, int):
            raise RecipeError("must be a whole number", where=f"augmentation.ElasticGrid.grid={self.grid!r}")
        check_range(self, "sigma", self.sigma, 0, 1000)
        _check(self, self.probability, self.outside, self.min_visible)

    def placements(self, height: int, width: int, draws: Draws, boxes: np.ndarray | None = None
                   ) -> tuple[Placement, ...]:
        if draws.uniform(1)[0, 0] >= self.probability:
            return ()
        u = _noise(draws, self.grid, self.grid)
        radius = np.sqrt(-2 * np.log1p(-u[..., :1]))  # Box and Muller 1958
        vectors = self.sigma * radius * np.concatenate(
            [np.cos(2 * np.pi * u[..., 1:]), np.sin(2 * np.pi * u[..., 1:])], -1)
        field = _blend(_blend(vectors, _cubic(self.grid, height), 0), _cubic(self.grid, width), 1)
        return (Placement(matrix=np.eye(3), height=height, width=width, field=field, outside=self.outside,
                          min_visible=self.min_visible),)


def _noise(draws: Draws, height: int, width: int) -> np.ndarray:
    """float64 [height, width, 2] in [0, 1) for the one image of `draws`."""
    places = np.arange(height * width * 2).reshape(height, width, 2)
    return uniform(places, draws.seed, draws.epoch, draws.stream, "field", int(draws.index[0]))


def _blend(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Sums of [n, ...] along `axis` with weights [m, n]."""
    return np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)


def _smoothed(noise: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[H + n - 1, W + n - 1, 2] -> float64 [H, W, 2]: both axes convolved with `weights` [n]."""
    planes = torch.from_numpy(noise.astype(np.float32)).permute(2, 0, 1)[:, None]  # [2, 1, H, W]
    kernel = torch.from_numpy(weights.astype(np.float32))
    planes = F.conv2d(F.conv2d(planes, kernel[None, None, None, :]), kernel[None, None, :, None])
    return planes[:, 0].permute(1, 2, 0).double().numpy()


def _cubic(points: int, size: int) -> np.ndarray:
    """float64 [size, points]: Keys' cubic convolution (1981, a = -1/2) at the centres of `size` pixels, between points
    of which the first and the last lie on the edges; beyond them they go on in a straight line."""
    place = (np.arange(size) + 0.5) / size * (points - 1)
    first = np.minimum(place.astype(np.int64), points - 2)
    t = (place - first)[:, None]
    share = np.concatenate([-t**3 + 2 * t**2 - t, 3 * t**3 - 5 * t**2 + 2, -3 * t**3 + 4 * t**2 + t, t**3 - t**2],
                           1) / 2
    wide = np.zeros((size, points + 2))
    wide[np.arange(size)[:, None], first[:, None] + np.arange(4)] = share
    out = wide[:, 1:-1].copy()
    for end, near, last in ((wide[:, 0], 0, 1), (wide[:, -1], points - 1, points - 2)):
        out[:, near] += 2 * end
        out[:, last] -= end
    return out


def _check(transform: object, probability: float, outside: str, min_visible: float) -> None:
    check_range(transform, "probability", probability, 0, 1)
    check_range(transform, "min_visible", min_visible, 0, 1)
    if outside not in _OUTSIDE:
        raise RecipeError("must be 'fill', 'border', 'reflect' or 'symmetric'",
                          where=f"augmentation.{type(transform).__name__}.outside={outside!r}")


augmentations.add(Elastic, {"elastic": {}})
augmentations.add(ElasticGrid, {"elastic_grid": {}})
