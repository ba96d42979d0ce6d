"""AdaBoost over decision stumps on one feature each, and the attentional cascade of such sums.

Papers: Freund and Schapire, JCSS 1997; Viola and Jones, Robust Real-Time Face Detection, IJCV 2004, table 1 (a round:
the feature, threshold and sign with the least weighted error) and table 2 (a cascade: each stage takes stumps until it
keeps enough objects and lets few enough others pass, and the next one learns on what passed).
For all thresholds of all features at once: with the samples in the order of a feature and the running sum of their
weights, those of others counted negative, the error of "below the threshold is an object" is the objects' weight less
that sum, and that of "above" the others' weight plus it. So a round is a gather, a running sum and its extremes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 23  # sample values at a time
_LEAST = 1e-10  # error of a stump that makes no mistake, so that its weight is finite


@dataclass(frozen=True)
class Stumps:
    """K stumps in the order they were found. feature: column of the values, int64 [K]. threshold, sign (1: objects are
    below, -1: above), alpha (its weight in the vote, log((1 - error) / error)): float32 [K]. error: weighted, [K]."""

    feature: Tensor
    threshold: Tensor
    sign: Tensor
    alpha: Tensor
    error: Tensor

    def votes(self, values: Tensor) -> Tensor:
        """Values of these stumps' features, [..., K] -> alpha where a stump says object, 0 elsewhere, [..., K]."""
        return (self.sign * values < self.sign * self.threshold) * self.alpha

    def join(self, more: Stumps) -> Stumps:
        return Stumps(*(torch.cat([getattr(self, name), getattr(more, name)]) for name in self.__dataclass_fields__))


class AdaBoost:
    """Rounds over fixed samples. values: float32 [N, F]; objects: bool [N]. `next()` is one round.

    Holds values, order and the places where a threshold may lie: 9 bytes a value beyond the values themselves.
    """

    def __init__(self, values: Tensor, objects: Tensor):
        ordered, order = values.T.contiguous().sort(dim=1, stable=True)
        self._ordered, self._order = ordered, order.to(torch.int32)
        self._apart = torch.ones_like(ordered, dtype=torch.bool)  # no threshold between equal values
        self._apart[:, :-1] = ordered[:, 1:] > ordered[:, :-1]
        self._objects = objects
        counts = objects.sum(), (~objects).sum()
        self.weights = torch.where(objects, 0.5 / counts[0].clamp(min=1), 0.5 / counts[1].clamp(min=1)).to(values.dtype)

    def next(self) -> Stumps:
        """The stump of least weighted error under the present weights, which are then moved to its mistakes."""
        self.weights = self.weights / self.weights.sum()
        signed = torch.where(self._objects, self.weights, -self.weights)
        total = self.weights[self._objects].sum(), self.weights[~self._objects].sum()
        feature, place, sign, _ = self._best(signed, *total)
        row = self._ordered[feature]
        if place == len(row) - 1:  # every sample is below
            threshold = row[-1] + 1
        else:
            threshold = row[place] + (row[place + 1] - row[place]) / 2
            threshold = row[place + 1] if threshold <= row[place] else threshold  # neighbours in float
        order = self._order[feature].long()
        said = torch.empty_like(self._objects)
        said[order] = sign * row < sign * threshold
        wrong = said != self._objects
        error = float(self.weights[wrong].sum().clamp(_LEAST, 1 - _LEAST))
        beta = error / (1 - error)
        self.weights = torch.where(wrong, self.weights, self.weights * beta)
        like = self._ordered
        return Stumps(torch.tensor([feature], device=like.device), threshold.reshape(1), like.new_tensor([sign]),
                      -like.new_tensor([beta]).log(), like.new_tensor([error]))

    def _best(self, signed: Tensor, objects: Tensor, others: Tensor) -> tuple[int, int, float, float]:
        """(feature, last sample below the threshold, sign, error)."""
        found = (0, 0, 1.0, float("inf"))
        rows = max(1, _CHUNK // self._order.shape[1])
        for number, (order, apart) in enumerate(zip(self._order.split(rows), self._apart.split(rows), strict=True)):
            running = signed[order.flatten()].view(order.shape).cumsum(1)  # objects less others below, [f, N]
            low = running.masked_fill(~apart, torch.inf).min(1)
            high = running.masked_fill(~apart, -torch.inf).max(1)
            for sign, errors, where in ((1.0, objects - high.values, high.indices),
                                        (-1.0, others + low.values, low.indices)):
                row = int(errors.argmin())
                if float(errors[row]) < found[3]:
                    found = (number * rows + row, int(where[row]), sign, float(errors[row]))
        return found


def adaboost(values: Tensor, objects: Tensor, rounds: int) -> Stumps:
    """`rounds` rounds over values [N, F] and objects, bool [N]."""
    booster = AdaBoost(values, objects)
    stumps = booster.next()
    for _ in range(rounds - 1):
        stumps = stumps.join(booster.next())
    return stumps


@dataclass(frozen=True)
class GrownStage:
    """A window passes where the sum of votes is at least `threshold`. detection, false_positives: shares of the objects
    and others, of those that came to this stage, that passed when it was made."""

    stumps: Stumps
    threshold: float
    detection: float
    false_positives: float


def grow_stage(train: tuple[Tensor, Tensor], check: tuple[Tensor, Tensor], min_detection: float,
               max_false_positives: float, max_stumps: int, advance: Callable[[int], None] = lambda count: None
               ) -> GrownStage:
    """Stumps until the stage, with its threshold lowered to keep `min_detection` of the checked objects, lets at most
    `max_false_positives` of the checked others pass. train, check: (values [N, F], objects bool [N])."""
    booster = AdaBoost(*train)
    stumps: Stumps | None = None
    sums = [part[0].new_zeros(len(part[0])) for part in (train, check)]
    checked = check[1]
    while True:
        one = booster.next()
        stumps = one if stumps is None else stumps.join(one)
        for total, (values, _) in zip(sums, (train, check), strict=True):
            total += one.votes(values[:, one.feature])[:, 0]
        threshold = lowered_threshold(sums[1][checked], torch.cat(sums), float(stumps.alpha.sum()) / 2, min_detection)
        passed = sums[1] >= threshold
        found, let_pass = (float(passed[part].float().mean()) if part.any() else 0.0 for part in (checked, ~checked))
        advance(1)
        if let_pass <= max_false_positives or len(stumps.alpha) >= max_stumps:
            return GrownStage(stumps, threshold, found, let_pass)


def lowered_threshold(objects: Tensor, every: Tensor, start: float, min_detection: float) -> float:
    """`start`, or where fewer than `min_detection` of the objects reach it, half way from the score that enough of them
    reach down to the next score of any sample. objects: [P]; every: [N]."""
    if not len(objects) or float((objects >= start).float().mean()) >= min_detection:
        return start
    may_miss = int((1 - min_detection) * len(objects) + 1e-9)
    reached = objects.sort().values[may_miss]
    lower = every[every < reached - 1e-6 * (1 + reached.abs())]
    return float((reached + lower.max()) / 2) if len(lower) else float(reached) - 1e-3
