"""Coefficients of an image in a linear subspace from those of its pixels that belong to it: for occluded images.

Leonardis and Bischof, Robust Recognition Using Eigenimages, Computer Vision and Image Understanding 78, 2000. The plain
projection is a least-squares fit to all pixels, which an occluded part pulls away as far as it likes. Here some
hypotheses are each fitted to a few random pixels, lose their worst ones step by step (a trimmed fit, section 3.1), are
judged by all pixels of the image, and the one that explains the most with the least error is fitted again to what it
explains (section 3.2). Departure: their selection may keep several overlapping hypotheses of a scene; here an image has
one object, for which the choice by description length is that of the largest score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import positive, require
from visus.ops.principal import Principal

HYPOTHESES = 20
PIXELS = 4       # of a hypothesis, for each component
KEPT = 0.6       # of its pixels when the worst are gone
TRIMS = 5        # steps in which they go
REFITS = 3
_BLOCK = 64 << 20


@dataclass(frozen=True, eq=False)
class RobustCoefficients:
    """coefficients: [B, K]; explained: bool [B, D], pixels whose residual is at most the threshold."""

    coefficients: Tensor
    explained: Tensor


def robust_projection(images: Tensor, principal: Principal, threshold: float, *, hypotheses: int = HYPOTHESES,
                      pixels: int | None = None, seed: int = 0) -> RobustCoefficients:
    """images: [B, D]. principal: K components of whole images. threshold: the residual, in units of the pixels, up to
    which one is explained: about two standard deviations of a whole image's residual (`usual_residual`). hypotheses:
    starts for each image; pixels: in each of them, None: 4 for each component, in small images at most half of all.
    Computed in float64, in blocks."""
    positive(hypotheses=hypotheses)
    count, dim = principal.components.shape
    if images.ndim != 2 or images.shape[1] != dim:
        raise UserError(f"must be [B, {dim}]", where=f"images {tuple(images.shape)}")
    require(threshold > 0, "threshold", threshold, "be above 0")
    some = min(dim, max(count, min(PIXELS * count, dim // 2)) if pixels is None else pixels)
    require(some >= count, "pixels", some, f"be at least {count}, the number of components")
    axes = principal.components.double()  # [K, D]
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _BLOCK // (8 * hypotheses * max(dim, some * count, count * count)))
    coefficients, explained = [], []
    for part in (images.double() - principal.mean.double()).split(step):
        places = torch.rand(len(part), hypotheses, dim, generator=generator).topk(some, dim=2).indices.to(part.device)
        found = _trimmed(part, axes, places)                            # [b, H, K]
        inside = _residuals(part, found, axes) <= threshold             # [b, H, D]
        best = _score(part, found, axes, inside, threshold).argmax(1)
        rows = torch.arange(len(part), device=part.device)
        chosen, mask = found[rows, best], inside[rows, best]
        for _ in range(REFITS):
            enough = mask.sum(1, keepdim=True) >= count
            chosen = torch.where(enough, _weighted(part[:, None], axes, mask[:, None].double())[:, 0], chosen)
            mask = _residuals(part, chosen[:, None], axes)[:, 0] <= threshold
        coefficients.append(chosen)
        explained.append(mask)
    return RobustCoefficients(torch.cat(coefficients).to(images.dtype), torch.cat(explained))


def usual_residual(images: Tensor, principal: Principal) -> float:
    """The standard deviation of what whole images, [N, D], have beyond their projection."""
    return float((images - principal.inverse(principal.transform(images))).double().square().mean().sqrt())


def _trimmed(images: Tensor, axes: Tensor, places: Tensor) -> Tensor:
    """[b, H, K]: fits to the pixels `places`, int64 [b, H, n], of which the worst leave in TRIMS steps."""
    count = len(axes)
    bases = axes.T[places]                                              # [b, H, n, K]
    values = images[:, None].expand(-1, places.shape[1], -1).gather(2, places)  # [b, H, n]
    weights = torch.ones_like(values)
    for trim in range(TRIMS + 1):
        found = _solved((bases * weights[..., None]).mT @ bases, (bases * (weights * values)[..., None]).sum(2))
        if trim < TRIMS:
            share = 1 - (1 - KEPT) * (trim + 1) / TRIMS
            keep = max(count, int(share * places.shape[2]))
            wrong = (values - (bases @ found[..., None])[..., 0]).abs()
            last = wrong.kthvalue(keep, dim=2, keepdim=True).values
            weights = (wrong <= last).double()
    return found


def _weighted(images: Tensor, axes: Tensor, weights: Tensor) -> Tensor:
    """[b, H, K]: least squares over the pixels with weight 1. images: [b, 1, D]; weights: [b, H, D]."""
    return _solved((weights[:, :, None] * axes) @ axes.T, (weights * images) @ axes.T)


def _solved(normal: Tensor, right: Tensor) -> Tensor:
    """[b, H, K]: the solution of normal equations, with a trace of ridge where pixels do not tell components apart."""
    scale = normal.diagonal(dim1=2, dim2=3).mean(2).clamp_min(1e-12)[..., None, None]
    eye = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    return torch.linalg.solve(normal + 1e-9 * scale * eye, right[..., None])[..., 0]


def _residuals(images: Tensor, coefficients: Tensor, axes: Tensor) -> Tensor:
    """[b, H, D]: absolute. images: [b, D]; coefficients: [b, H, K]."""
    return (images[:, None] - coefficients @ axes).abs()


def _score(images: Tensor, coefficients: Tensor, axes: Tensor, inside: Tensor, threshold: float) -> Tensor:
    """[b, H]: explained pixels, less what their residuals cost in units of the threshold (equation 17's form)."""
    residuals = _residuals(images, coefficients, axes) / threshold
    return (inside * (1 - residuals.square())).sum(2)
