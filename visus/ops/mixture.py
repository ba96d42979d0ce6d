"""Mixtures of Gaussians by expectation maximisation (Dempster, Laird, Rubin, JRSS-B 1977).

    p(x) = sum_k weight_k N(x; mean_k, covariance_k)

The E step gives each point to the components in the parts in which they explain it; the M step fits each to its parts.
No step lowers the likelihood of the points but by `ridge`, which is added to each variance so that none falls to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import one_of, positive, require
from visus.ops.gaussian import BLOCK_BYTES, log_densities, whitening
from visus.ops.kmeans import kmeans

Kind = Literal["full", "diag", "tied"]
KINDS: tuple[str, ...] = get_args(Kind)
STEPS = 100
TOLERANCE = 1e-3  # change of the mean log-likelihood at which EM ends
RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Mixture:
    """weights: float64 [K], sum 1; means: [K, D]; covariances: 'full' [K, D, D], 'diag' [K, D], 'tied' [1, D, D], which
    all share. history: the mean log-likelihood of the points before each step and after the last one."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    kind: Kind = "full"
    history: list[float] = field(default_factory=list)

    @classmethod
    def fit(cls, points: Tensor, components: int, kind: Kind = "full", *, start: Mixture | None = None,
            steps: int = STEPS, tolerance: float = TOLERANCE, ridge: float = RIDGE, seed: int = 0,
            advance: Callable[[int], None] = lambda count: None) -> Mixture:
        """To points [N, D], in float64. start: where to begin; None: at the clusters of k-means. ridge: in squared
        units of the points. advance: called with 1 after each step. Raises UserError for fewer points than
        components."""
        positive(components=components, steps=steps)
        one_of(KINDS, kind=kind)
        require(tolerance >= 0, "tolerance", tolerance, "be at least 0")
        require(ridge >= 0, "ridge", ridge, "be at least 0")
        if points.ndim != 2 or len(points) < components:
            raise UserError(f"must be at most the number of points, {tuple(points.shape)}",
                            where=f"components={components}", remedy="Ask for fewer, or give more points")
        points = points.double()
        if start is None:
            labels = kmeans(points, components, restarts=1, seed=seed).labels
            parts = torch.nn.functional.one_hot(labels, components).double()
            now = _maximised(points, parts, kind, ridge)
        else:
            require(start.kind == kind and len(start.weights) == components, "start", start.kind,
                    f"be a mixture of {components} with kind={kind!r}")
            now = start
        history: list[float] = []
        for step in range(steps + 1):
            logs = now.joint(points)  # [N, K]
            evidence = logs.logsumexp(1, keepdim=True)
            history.append(float(evidence.mean()))
            if step == steps or (step and abs(history[-1] - history[-2]) < tolerance):
                break
            now = _maximised(points, (logs - evidence).exp(), kind, ridge)
            advance(1)
        return cls(now.weights, now.means, now.covariances, kind, history)

    @property
    def factors(self) -> Tensor:
        """Of `visus.ops.gaussian`: [K, D, D], [K, D] or [1, D, D]."""
        return self.covariances.rsqrt() if self.kind == "diag" else whitening(self.covariances)

    def joint(self, points: Tensor) -> Tensor:
        """[N, D] -> float64 [N, K]: log(weight_k N(x; k))."""
        return log_densities(points.double(), self.means, self.factors) + self.weights.log()

    def log_prob(self, points: Tensor) -> Tensor:
        """[N, D] -> float64 [N]."""
        return self.joint(points).logsumexp(1)

    def responsibilities(self, points: Tensor) -> Tensor:
        """[N, D] -> float64 [N, K]: how probably each component made a point."""
        return self.joint(points).softmax(1)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(points float64 [count, D], the component of each, int64 [count])."""
        which = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        which, noise = which.to(self.means.device), noise.to(self.means.device)
        if self.kind == "diag":
            return self.means[which] + noise * self.covariances.sqrt()[which], which
        factors = torch.linalg.cholesky(self.covariances).expand(len(self.means), -1, -1)
        moved = torch.empty_like(noise)
        for component in range(len(self.means)):
            mine = which == component
            moved[mine] = noise[mine] @ factors[component].T
        return self.means[which] + moved, which


def _maximised(points: Tensor, parts: Tensor, kind: Kind, ridge: float) -> Mixture:
    """The M step. points: [N, D]; parts: [N, K], rows that sum to 1."""
    sizes = parts.sum(0) + 10 * torch.finfo(torch.float64).eps
    means = parts.T @ points / sizes[:, None]
    count, dim = means.shape
    shape = (count, dim) if kind == "diag" else (count, dim, dim) if kind == "full" else (1, dim, dim)
    scatter = torch.zeros(shape, dtype=torch.float64, device=points.device)
    rows = max(1, BLOCK_BYTES // (8 * count * dim))
    for some, share in zip(points.split(rows), parts.split(rows), strict=True):
        centred = some[None] - means[:, None]  # [K, n, D]
        weighted = centred * share.T[:, :, None]
        if kind == "diag":
            scatter += (weighted * centred).sum(1)
        elif kind == "full":
            scatter += weighted.mT @ centred
        else:
            scatter[0] += weighted.flatten(0, 1).T @ centred.flatten(0, 1)
    if kind == "diag":
        return Mixture(sizes / sizes.sum(), means, scatter / sizes[:, None] + ridge, kind)
    scatter = scatter / (sizes[:, None, None] if kind == "full" else sizes.sum())
    eye = torch.eye(dim, dtype=torch.float64, device=points.device)
    return Mixture(sizes / sizes.sum(), means, scatter + ridge * eye, kind)
