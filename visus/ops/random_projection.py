"""Random projections: fewer numbers a point, with the distances between all points nearly as they were.

Johnson and Lindenstrauss, Extensions of Lipschitz mappings into a Hilbert space, 1984, in the form of Dasgupta and
Gupta, 2003: with at least `least_dims` directions, drawn without looking at the points, all squared distances stay
within a factor of 1 +- epsilon with high probability. Achlioptas, Database-friendly random projections, JCSS 2003,
draws entries that are 0 two times of three; Li, Hastie, Church, KDD 2006, with a density of 1 / sqrt(D).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from visus.core.validate import one_of, positive, require

Kind = Literal["gaussian", "sparse"]
KINDS: tuple[str, ...] = get_args(Kind)


def least_dims(points: int, epsilon: float) -> int:
    """4 ln N / (epsilon^2 / 2 - epsilon^3 / 3), without its fraction: dimensions for N points. epsilon: in (0, 1)."""
    positive(points=points)
    require(0 < epsilon < 1, "epsilon", epsilon, "lie between 0 and 1")
    return int(4 * math.log(points) / (epsilon**2 / 2 - epsilon**3 / 3))


def projection(dim: int, dims: int, kind: Kind = "gaussian", *, density: float | None = None,
               seed: int = 0) -> Tensor:
    """float32 [dim, dims], to be multiplied from the right: a mean squared length stays what it was.

    'gaussian': independent, of variance 1 / dims. 'sparse': +-sqrt(1 / (density dims)), each half of `density` of the
    time, else 0; density: 1 / 3 of Achlioptas where None is given, or any in (0, 1].
    """
    positive(dim=dim, dims=dims)
    one_of(KINDS, kind=kind)
    generator = torch.Generator().manual_seed(seed)
    if kind == "gaussian":
        return torch.randn(dim, dims, generator=generator) / math.sqrt(dims)
    density = 1 / 3 if density is None else density
    require(0 < density <= 1, "density", density, "lie in (0, 1]")
    drawn = torch.rand(dim, dims, generator=generator)
    signs = (drawn < density / 2).float() - ((drawn >= density / 2) & (drawn < density)).float()
    return signs / math.sqrt(density * dims)


def distortion(points: Tensor, projected: Tensor) -> Tensor:
    """float64 [N (N - 1) / 2]: each pair's squared distance after over that before; pairs of equal points left out.
    points: [N, D]; projected: [N, K]."""
    before = torch.nn.functional.pdist(points.double())
    after = torch.nn.functional.pdist(projected.double())
    apart = before > 0
    return (after[apart] / before[apart]).square()
