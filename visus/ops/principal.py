"""Principal component analysis: the directions in which points differ most (Pearson 1901; Hotelling 1933)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import require

_TINY = 1e-12  # share of the largest variance below which a direction holds nothing but rounding


@dataclass(frozen=True, eq=False)
class Principal:
    """mean: [D]; components: [K, D], orthonormal rows, the largest variance first, each with its largest entry above 0;
    variances: [K], divided by N - 1; total: the variance along all directions together."""

    mean: Tensor
    components: Tensor
    variances: Tensor
    total: float

    @classmethod
    def fit(cls, points: Tensor, components: int | None = None, share: float | None = None) -> Principal:
        """Of points [N, D], in float64, kept in the type of the points. components: how many directions at the most;
        share: as many as hold this part of the variance; neither: all that vary. With fewer points than numbers in one
        from their singular values, else from their covariance. Raises UserError for fewer than two points."""
        if points.ndim != 2 or len(points) < 2:
            raise UserError("must be at least two points [N, D]", where=f"points {tuple(points.shape)}")
        count, dim = points.shape
        require(components is None or 1 <= components <= dim, "components", components, f"be from 1 to {dim}")
        require(share is None or 0 < share <= 1, "share", share, "be above 0 and at most 1")
        mean = points.mean(0, dtype=torch.float64)
        if count <= dim:
            _, singular, rows = torch.linalg.svd(points.double() - mean, full_matrices=False)
            variances = singular.square() / (count - 1)
        else:
            products = torch.zeros(dim, dim, dtype=torch.float64, device=points.device)
            for part in points.split(max(256, (64 << 20) // (8 * dim))):
                centred = part.double() - mean
                products.addmm_(centred.T, centred)
            variances, columns = torch.linalg.eigh(products / (count - 1))
            variances, rows = variances.flip(0).clamp_min(0), columns.T.flip(0)
        total = float(variances.sum())
        keep = max(1, int((variances > _TINY * variances[0]).sum()))
        keep = min(keep, count - 1, components or dim)
        if share is not None:
            enough = int((variances.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1
            keep = min(keep, enough)
        rows = rows[:keep]
        rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
        kind = points.dtype if points.is_floating_point() else torch.float32
        return cls(mean.to(kind), rows.to(kind).contiguous(), variances[:keep].to(kind), total)

    def transform(self, points: Tensor) -> Tensor:
        """[N, D] -> coefficients [N, K]."""
        return (points - self.mean) @ self.components.T

    def inverse(self, coefficients: Tensor) -> Tensor:
        """[N, K] -> the points [N, D] that have these coefficients and no others."""
        return coefficients @ self.components + self.mean

    @property
    def shares(self) -> Tensor:
        """[K]: each direction's part of the whole variance."""
        return self.variances / max(self.total, torch.finfo(torch.float32).tiny)
