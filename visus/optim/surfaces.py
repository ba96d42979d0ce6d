"""Loss surfaces over the plane on which optimizers can be watched: values, gradients by hand, known minima.

Each is one difficulty alone. The ravine is the long narrow valley of Hinton's CSC321, here also turned by an eighth, so
that no coordinate by itself is the steep one; the saddle stands between two minima (Dauphin et al. 2014,
arXiv:1406.2572; Choromanska et al. 2015); the plateau is a well whose slope dies off with distance; Rosenbrock's valley
is bent (1960, with his start); Himmelblau's surface has four minima (1972); Beale's has steep walls and a floor that is
nearly flat (1958); the kink has no gradient at its floor. Coefficients, starts and windows are our own otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Surface:
    """value, gradient: of x and y, tensors of one shape; gradient gives the pair of derivatives. minima: the points
    (x, y) of the least value, `least`. start: where a descent begins. window: x from, x to, y from, y to."""

    name: str
    about: str
    value: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    minima: tuple[Point, ...]
    least: float
    start: Point
    window: tuple[float, float, float, float]

    def distance(self, points: Tensor) -> Tensor:
        """[..., 2] -> [...]: to the nearest minimum; inf for points that are not finite."""
        minima = torch.tensor(self.minima, dtype=points.dtype, device=points.device)
        found = torch.linalg.vector_norm(points[..., None, :] - minima, dim=-1).amin(-1)
        return torch.where(torch.isfinite(found), found, torch.inf)


STEEP = 50.0  # curvature across the ravine; 1 along it


def _slanted(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    along, across = (x + y) / math.sqrt(2), STEEP * (y - x) / math.sqrt(2)
    return (along - across) / math.sqrt(2), (along + across) / math.sqrt(2)


def _plateau(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    well = torch.exp(-(x**2 + y**2) / 2)
    return x * well, y * well


def _himmelblau(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x**2 + y - 11, x + y**2 - 7
    return 4 * x * first + 2 * second, 2 * first + 4 * y * second


_BEALE = (1.5, 2.25, 2.625)


def _beale(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    terms = [(c - x + x * y**k, y**k - 1, k * x * y ** (k - 1)) for k, c in enumerate(_BEALE, 1)]
    dx, dy = torch.zeros_like(x), torch.zeros_like(y)
    for residual, by_x, by_y in terms:
        dx, dy = dx + 2 * residual * by_x, dy + 2 * residual * by_y
    return dx, dy


_ALL = (
    Surface("ravine", f"a valley {STEEP:g} times as steep across as along",
            lambda x, y: (x**2 + STEEP * y**2) / 2, lambda x, y: (x, STEEP * y),
            ((0.0, 0.0),), 0.0, (-4.0, 1.2), (-5.0, 2.0, -2.0, 2.0)),
    Surface("slanted", "the ravine turned by an eighth: no coordinate alone is the steep one",
            lambda x, y: ((x + y) ** 2 + STEEP * (y - x) ** 2) / 4, _slanted,
            ((0.0, 0.0),), 0.0, (-3.6, -2.0), (-5.0, 2.0, -4.0, 2.0)),
    Surface("saddle", "level at the origin, down on both sides of it",
            lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, lambda x, y: (x, y**3 - y),
            ((0.0, 1.0), (0.0, -1.0)), -0.25, (-1.8, 0.002), (-2.2, 1.2, -1.6, 1.6)),
    Surface("plateau", "a well in a plain whose slope dies off with distance",
            lambda x, y: 1 - torch.exp(-(x**2 + y**2) / 2), _plateau,
            ((0.0, 0.0),), 0.0, (-2.6, 1.8), (-3.5, 2.0, -2.0, 2.8)),
    Surface("rosenbrock", "a valley that is steep, flat along its floor, and bent",
            lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
            lambda x, y: (2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)),
            ((1.0, 1.0),), 0.0, (-1.2, 1.0), (-1.8, 1.8, -0.8, 2.4)),
    Surface("himmelblau", "four minima of one depth around a hill",
            lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2, _himmelblau,
            ((3.0, 2.0), (-2.805118086952745, 3.131312518250573), (-3.779310253377747, -3.283185991286170),
             (3.584428340330492, -1.848126526964404)), 0.0, (-0.3, -1.2), (-5.0, 5.0, -5.0, 5.0)),
    Surface("beale", "steep walls, a floor that is nearly flat",
            lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2, _beale,
            ((3.0, 0.5),), 0.0, (1.0, 1.0), (0.0, 4.2, -1.2, 1.6)),
    Surface("kink", "the absolute value: the slope at the floor is as large as on the walls",
            lambda x, y: x.abs() + 4 * y.abs(), lambda x, y: (torch.sign(x), 4 * torch.sign(y)),
            ((0.0, 0.0),), 0.0, (-3.0, 1.3), (-4.0, 2.0, -2.0, 2.0)),
)
SURFACES = {surface.name: surface for surface in _ALL}
