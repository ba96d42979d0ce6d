"""Hinge losses of several classes, as a splitting method needs them: value, proximal map and dual value.

One-vs-all sums a binary hinge over all classes (Rifkin and Klautau, JMLR 2004); Weston and Watkins (ESANN 1999) sum
over the wrong classes max(0, s_j - s_y + margin); Crammer and Singer (JMLR 2001) take the worst of them. `squared`
makes each term its square (the L2-SVM of Tang, arXiv:1306.0239).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visus.core.validate import boolean, one_of, require

FORMULATIONS = ("weston_watkins", "one_vs_all", "crammer_singer")


@dataclass(frozen=True)
class Hinge:
    """scores: [N, K], targets: int64 [N], for all methods."""

    formulation: str = "weston_watkins"
    squared: bool = False
    margin: float = 1.0

    def __post_init__(self) -> None:
        one_of(FORMULATIONS, formulation=self.formulation)
        boolean(squared=self.squared)
        require(self.margin > 0, "margin", self.margin, "be above 0")
        require(not (self.squared and self.formulation == "crammer_singer"), "squared", self.squared,
                "be false with formulation=crammer_singer, whose loss is a maximum and not a sum")

    def losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example, [N], at least 0."""
        if self.formulation == "one_vs_all":
            short = (self.margin - scores * signs(scores, targets)).clamp_min(0)
            return (short.square() if self.squared else short).sum(1)
        right = scores.gather(1, targets[:, None])
        short = (scores.gather(1, others(scores, targets)) - right + self.margin).clamp_min(0)  # [N, K - 1]
        if self.formulation == "crammer_singer":
            return short.amax(1)
        return (short.square() if self.squared else short).sum(1)

    def proximal(self, scores: Tensor, targets: Tensor, step: float) -> Tensor:
        """The z [N, K] of least step * loss(z) + 1/2 |z - scores|^2, row by row, exactly."""
        if self.formulation == "one_vs_all":
            sign = signs(scores, targets)
            short = self.margin - scores * sign
            moved = short.clamp_min(0) * (2 * step / (1 + 2 * step)) if self.squared else short.clamp(0, step)
            return scores + moved * sign
        if self.formulation == "crammer_singer":
            return self._worst_proximal(scores, targets, step)
        wrong = others(scores, targets)
        level = scores.gather(1, wrong) + self.margin  # [N, K - 1]
        right = scores.gather(1, targets[:, None])
        at = _squared_root(level, right, 2 * step / (1 + 2 * step)) if self.squared else _clipped_root(
            level, right, step)
        moved = (level - at).clamp_min(0) * (2 * step / (1 + 2 * step)) if self.squared else (level - at).clamp(0, step)
        return scores.scatter(1, wrong, level - self.margin - moved).scatter(1, targets[:, None], at)

    def _worst_proximal(self, scores: Tensor, targets: Tensor, step: float) -> Tensor:
        """z = v - step p with p the projection of v / step onto the simplex, v the scores with margin and pull."""
        lift = torch.full_like(scores, self.margin).scatter_(1, targets[:, None], 0.0)
        pulled = scores + lift
        pulled.scatter_add_(1, targets[:, None], torch.full_like(pulled[:, :1], step))
        ordered = pulled.sort(1, descending=True).values
        count = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        levels = (ordered.cumsum(1) - step) / count
        last = (ordered > levels).sum(1, keepdim=True) - 1
        return pulled.minimum(levels.gather(1, last)) - lift

    def dual_value(self, dual: Tensor, targets: Tensor, cost: float) -> float:
        """-cost * sum of the conjugates at dual / cost, for a `dual` [N, K] in cost * the subgradient of the loss."""
        parts = dual.abs() if self.formulation == "one_vs_all" else dual.gather(1, others(dual, targets))
        total = self.margin * float(parts.sum(dtype=torch.float64))
        return total - float(parts.square().sum(dtype=torch.float64)) / (4 * cost) if self.squared else total


def signs(scores: Tensor, targets: Tensor) -> Tensor:
    """1 at the target, -1 elsewhere."""
    return torch.full_like(scores, -1.0).scatter_(1, targets[:, None], 1.0)


def others(scores: Tensor, targets: Tensor) -> Tensor:
    """The wrong classes of each row in order, int64 [N, K - 1]."""
    index = torch.arange(scores.shape[1] - 1, device=scores.device)
    return index + (index >= targets[:, None])


def _clipped_root(level: Tensor, right: Tensor, step: float) -> Tensor:
    """The u [N, 1] with u = right + sum_j clip(level_j - u, 0, step): the difference is piecewise linear and rising,
    with bends at level_j - step (steeper by one) and level_j (flatter by one)."""
    bends = torch.cat([level - step, level], 1)
    ordered, order = bends.sort(1)
    turns = torch.where(order < level.shape[1], 1.0, -1.0).to(level.dtype)
    slopes = 1 + turns.cumsum(1)  # right of each bend
    first = ordered[:, :1] - right - step * level.shape[1]
    values = torch.cat([first, first + ((ordered[:, 1:] - ordered[:, :-1]) * slopes[:, :-1]).cumsum(1)], 1)
    below = (values <= 0).sum(1, keepdim=True)
    at = (below - 1).clamp_min(0)
    inside = ordered.gather(1, at) - values.gather(1, at) / slopes.gather(1, at)
    return torch.where(below > 0, inside, right + step * level.shape[1])


def _squared_root(level: Tensor, right: Tensor, factor: float) -> Tensor:
    """The u [N, 1] with u = right + factor * sum_j max(level_j - u, 0)."""
    ordered = level.sort(1, descending=True).values
    count = torch.arange(1, level.shape[1] + 1, device=level.device)
    candidates = (right + factor * ordered.cumsum(1)) / (1 + factor * count)
    active = (ordered > candidates).sum(1, keepdim=True)
    return torch.where(active > 0, candidates.gather(1, (active - 1).clamp_min(0)), right)
