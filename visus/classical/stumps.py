"""Decision stumps for several classes: a threshold on one feature and a class on either side of it.

Each feature's values are coded once by at most 256 levels, which is exact for pixels of 8 bits; one weighted histogram
of all features, codes and classes then gives the quality of every threshold by running sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 256
CHUNK = 1 << 23  # values at a time


@dataclass(frozen=True)
class Stump:
    """At most `threshold` in column `feature`: class `below`, else `above`. error: weighted, of the weights' sum."""

    feature: int
    threshold: float
    below: int
    above: int
    error: float


class Coded:
    """values: float32 [N, F]; targets: int64 [N] below num_classes. Holds a byte for each value."""

    def __init__(self, values: Tensor, targets: Tensor, num_classes: int):
        self.targets, self.num_classes = targets, num_classes
        self.features = max(1, CHUNK // len(values))  # in a chunk
        codes: list[Tensor] = []
        thresholds: list[Tensor] = []
        for columns in values.T.split(self.features):
            found = thresholds_of(columns.contiguous())
            thresholds.append(found)
            codes.append(torch.searchsorted(found, columns.contiguous()).to(torch.uint8))  # thresholds below the value
        self.codes, self.thresholds = torch.cat(codes), torch.cat(thresholds)  # [F, N], [F, LEVELS - 1]

    def best(self, weights: Tensor, criterion: str) -> Stump:
        """weights: float64 [N]. criterion: 'error', the least weighted error, or 'gini', the least impurity of both
        sides (Breiman et al., Classification and Regression Trees, 1984); classes are the weightiest of a side."""
        best, quality = Stump(0, 0.0, 0, 0, 1.0), -float("inf")
        total = float(weights.sum())
        for number, codes in enumerate(self.codes.split(self.features)):
            below = self._histogram(codes, weights).cumsum(1)[:, :-1]  # [f, LEVELS - 1, K]
            above = below.new_zeros(self.num_classes).index_add_(0, self.targets, weights) - below
            found = purity(below, above) if criterion == "gini" else below.amax(2) + above.amax(2)
            at = int(found.argmax())
            if float(found.flatten()[at]) > quality:
                quality = float(found.flatten()[at])
                feature, place = divmod(at, found.shape[1])
                sides = below[feature, place], above[feature, place]
                right = sum(float(side.max()) for side in sides)
                best = Stump(number * self.features + feature,
                             float(self.thresholds[number * self.features + feature, place]),
                             int(sides[0].argmax()), int(sides[1].argmax()), max(0.0, 1 - right / total))
        return best

    def _histogram(self, codes: Tensor, weights: Tensor) -> Tensor:
        """Codes [f, N] -> weights of each code and class, float64 [f, LEVELS, K]."""
        size = LEVELS * self.num_classes
        offsets = torch.arange(len(codes), device=codes.device)[:, None] * size + self.targets
        index = codes.long() * self.num_classes + offsets
        flat = torch.bincount(index.flatten(), weights.expand(len(codes), -1).flatten(), len(codes) * size)
        return flat.view(len(codes), LEVELS, self.num_classes)

    def says(self, stump: Stump) -> Tensor:
        """What a stump says of all samples, int64 [N]."""
        place = int((self.thresholds[stump.feature] < stump.threshold).sum())
        return torch.where(self.codes[stump.feature] <= place, stump.below, stump.above)


def thresholds_of(columns: Tensor) -> Tensor:
    """[f, N] -> thresholds [f, LEVELS - 1] halfway between neighbouring values, in order, infinity after the last;
    where there are more values, evenly chosen among them."""
    ordered = columns.sort(1).values
    rises = ordered[:, 1:] > ordered[:, :-1]
    rank = rises.cumsum(1)  # of the rise, from 1
    factor = ((LEVELS - 1) / rank[:, -1:].clamp_min(1).double()).clamp_max(1.0)
    slot = (rank * factor + 1e-9).floor().long()
    chosen = rises & (slot > ((rank - 1) * factor + 1e-9).floor().long())
    halfway = ordered[:, :-1] + (ordered[:, 1:] - ordered[:, :-1]) / 2
    halfway = torch.where(halfway < ordered[:, 1:], halfway, ordered[:, :-1])  # neighbours in float
    found = torch.full((len(columns), LEVELS), torch.inf, dtype=columns.dtype, device=columns.device)
    found.scatter_(1, torch.where(chosen, slot - 1, LEVELS - 1), torch.where(chosen, halfway, torch.inf))
    return found[:, :-1].contiguous()


def purity(below: Tensor, above: Tensor) -> Tensor:
    """sum_k p_k^2 of either side [..., K], each times its weight: [...]. Largest where the Gini impurity is least."""
    return sum((side.square().sum(-1) / side.sum(-1).clamp_min(1e-12) for side in (below, above)),
               start=torch.zeros((), dtype=below.dtype, device=below.device))
