"""Gaussian densities: their maximum-likelihood fit, shrinkage, distances, logarithms and samples.

A covariance S is kept as its factor W with W W^T = S^-1 (upper triangular), so that |(x - mean) W|^2 is the squared
Mahalanobis distance and the sum of the logarithms of W's diagonal half the log-determinant of S^-1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import require

BLOCK_BYTES = 64 << 20
FLOOR = 1e-6  # of the mean variance, added to each where nothing else keeps a covariance from being singular


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean: float64 [D]; covariance: float64 [D, D], positive definite."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, points: Tensor, shrinkage: float = 0.0) -> Gaussian:
        """Mean and covariance (divided by N) of points [N, D]; shrinkage: the part, from 0 to 1, by which the
        covariance is replaced with its mean variance times the identity."""
        if points.ndim != 2 or not len(points):
            raise UserError("must be at least one point [N, D]", where=f"points {tuple(points.shape)}")
        mean = points.mean(0, dtype=torch.float64)
        centred = points.double() - mean
        return cls(mean, shrunk(centred.T @ centred / len(points), shrinkage))

    def mahalanobis(self, points: Tensor) -> Tensor:
        """[N, D] -> float64 [N]: the squared distance in units of the standard deviation along each direction."""
        return squared_distances(points.double(), self.mean[None], whitening(self.covariance)[None])[:, 0]

    def log_prob(self, points: Tensor) -> Tensor:
        """[N, D] -> float64 [N]: the logarithm of the density."""
        return log_densities(points.double(), self.mean[None], whitening(self.covariance)[None])[:, 0]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """float64 [count, D]."""
        noise = torch.randn(count, len(self.mean), dtype=torch.float64, generator=generator).to(self.mean.device)
        return self.mean + noise @ torch.linalg.cholesky(self.covariance).T


def shrunk(covariance: Tensor, share: float) -> Tensor:
    """(1 - share) S + share (tr S / D) I and, so that it has an inverse, at least FLOOR of the mean variance along each
    direction. covariance: float64 [..., D, D]."""
    require(0 <= share <= 1, "shrinkage", share, "lie in [0, 1]")
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    floor = torch.where(scale > 1e-12, FLOOR * scale, 1e-12)  # one value everywhere has no variance
    return (1 - share) * covariance + (share * scale + floor) * eye


def whitening(covariance: Tensor) -> Tensor:
    """[..., D, D] -> W, upper triangular, with W W^T its inverse. Raises UserError where it has none."""
    factor, wrong = torch.linalg.cholesky_ex(covariance)
    if bool((wrong != 0).any()):
        raise UserError("is not positive definite", where=f"covariance {tuple(covariance.shape)}",
                        remedy="Shrink it, or give more points than dimensions")
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device).expand_as(factor)
    return torch.linalg.solve_triangular(factor, eye, upper=False).mT.contiguous()


def squared_distances(points: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """[N, K]: Mahalanobis distances, squared. points: [N, D]; means: [K, D]; factors: W, [K, D, D], or [K, D] for
    diagonal covariances, or [1, D, D] where all share one. In blocks; differentiable."""
    count, dim = means.shape
    if factors.ndim == 2:
        precisions = factors.square()  # [K, D]
        return torch.cat([((part[:, None] - means).square() * precisions).sum(2)
                          for part in points.split(max(1, BLOCK_BYTES // (points.element_size() * count * dim)))])
    parts = []
    for part in points.split(max(1, BLOCK_BYTES // (points.element_size() * count * dim))):
        white = (part[None] - means[:, None]) @ factors  # [K, n, D]
        parts.append(white.square().sum(2).T)
    return torch.cat(parts)


def log_densities(points: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """[N, K]: the logarithm of each Gaussian's density at each point; arguments as for `squared_distances`."""
    diagonal = factors if factors.ndim == 2 else factors.diagonal(dim1=-2, dim2=-1)
    constant = diagonal.log().sum(-1) - means.shape[1] / 2 * math.log(2 * math.pi)
    return constant - squared_distances(points, means, factors) / 2
