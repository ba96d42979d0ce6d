"""Large-margin classifiers by splitting: min 1/2 |W|^2 + c sum_i loss(W x_i) with scores z_i = W x_i as a constraint.

The alternating direction method of multipliers (Boyd et al., Foundations and Trends in ML 2011, section 3) solves for W
and z in turn: W by least squares, which one rotation of the features makes diagonal once and for all, z by the loss's
proximal map, all examples and classes at once. Its multipliers are feasible for the dual problem, so that the gap
between the two objectives says at any time how far from the optimum the weights can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visus.classical.hinge import Hinge

RELAXATION = 1.6  # Boyd et al., section 3.4.3
CHECKED = 10  # iterations between two looks at the gap


@dataclass(frozen=True)
class Solution:
    """weight: [K, D]. objective: 1/2 |W|^2 + c sum of losses; dual: a lower bound of the least objective."""

    weight: Tensor
    objective: float
    dual: float
    iterations: int

    @property
    def gap(self) -> float:
        """(objective - dual) / objective."""
        return (self.objective - self.dual) / max(abs(self.objective), 1e-12)


class Splitting:
    """rows: [N, D], a column of ones included where a bias is wanted (it is penalised like the rest, as in liblinear);
    targets: int64 [N] below num_classes. Each `solve` goes on from where the last one ended."""

    def __init__(self, rows: Tensor, targets: Tensor, num_classes: int, hinge: Hinge):
        self.targets, self.hinge = targets, hinge
        self.rotated, self.axes, self.squares = rotate(rows)
        self.scores = rows.new_zeros(len(rows), num_classes)
        self.dual = torch.zeros_like(self.scores)
        self.cost = 0.0
        self.rho = 0.0

    def solve(self, cost: float, *, tolerance: float = 1e-3, max_iterations: int = 1000,
              advance: Callable[[int], None] = lambda count: None) -> Solution:
        """At most max_iterations, until the relative gap is below `tolerance`. advance(n): iterations done."""
        self._begin(cost)
        rows, z, u = self.rotated, self.scores, self.dual / self.rho
        best = Solution(rows.new_zeros(0), float("inf"), -float("inf"), 0)
        for iteration in range(1, max_iterations + 1):
            weight = self.rho * _gathered(rows, z - u) / (1 + self.rho * self.squares)[:, None]  # [R, K]
            scores = rows @ weight
            shifted = RELAXATION * scores + (1 - RELAXATION) * z + u
            before, z = z, self.hinge.proximal(shifted, self.targets, cost / self.rho)
            u = shifted - z
            if iteration % CHECKED == 0 or iteration == max_iterations:
                best = self._better(best, weight, scores, self.rho * u, iteration)
                advance(CHECKED)
                if best.gap < tolerance:
                    break
                if iteration < 30 or iteration % 50 == 0:
                    u = self._balanced(u, float((scores - z).norm()), float((z - before).norm()))
        self.scores, self.dual = z, self.rho * u
        return Solution((self.axes @ best.weight).T, best.objective, best.dual, iteration)

    def _begin(self, cost: float) -> None:
        if self.cost:
            self.dual = self.dual * (cost / self.cost)
            self.rho *= (cost / self.cost) ** 0.5
        else:
            self.rho = (cost / max(float(self.squares.mean()), 1e-12)) ** 0.5
        self.cost = cost

    def _better(self, best: Solution, weight: Tensor, scores: Tensor, dual: Tensor, iteration: int) -> Solution:
        """The lowest objective so far, of W itself and of the W that the multipliers give, and the highest dual."""
        folded = -_gathered(self.rotated, dual)
        bound = self.hinge.dual_value(dual, self.targets, self.cost) - 0.5 * _square(folded)
        for candidate, found in ((weight, scores), (folded, self.rotated @ folded)):
            total = self.hinge.losses(found, self.targets).sum(dtype=torch.float64)
            objective = 0.5 * _square(candidate) + self.cost * float(total)
            if objective < best.objective:
                best = Solution(candidate, objective, best.dual, iteration)
        return Solution(best.weight, best.objective, max(best.dual, bound), iteration)

    def _balanced(self, u: Tensor, primal: float, moved: float) -> Tensor:
        """Another rho where one residual is much the larger (Boyd et al., section 3.4.1), the multipliers kept."""
        factor = min(max((primal / max(moved, 1e-12)) ** 0.5, 0.2), 5.0)
        if 0.75 < factor < 1.3:
            return u
        self.rho *= factor
        return u / factor


def rotate(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, D] -> (rows V [N, R], V [D, R], squared lengths [R] of the columns), V orthonormal, so that the columns are
    orthogonal: |W|^2 is the same in both. R is at most N and D."""
    n, dim = rows.shape
    if dim <= n:
        gram = torch.zeros(dim, dim, dtype=torch.float64, device=rows.device)
        for part in rows.split(8192):
            gram += part.double().T @ part.double()
        squares, axes = torch.linalg.eigh(gram)
    else:
        squares, left = torch.linalg.eigh(rows.double() @ rows.double().T)
        kept = squares > squares[-1] * 1e-12
        squares, left = squares[kept], left[:, kept]
        axes = rows.double().T @ left / squares.sqrt()  # [D, R]
    axes = axes.to(rows)
    return rows @ axes, axes, squares.clamp_min(0).to(rows)


def _gathered(rows: Tensor, values: Tensor) -> Tensor:
    """rows^T values, [R, K], in the order of factors that is ten times faster for few columns."""
    return (values.T @ rows).T


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
