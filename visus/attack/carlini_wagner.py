"""Carlini and Wagner's l2 attack: the smallest perturbation by Adam, with a constant found by bisection.

Paper: Carlini, Wagner, Towards Evaluating the Robustness of Neural Networks, IEEE Symposium on Security and Privacy
2017, arXiv:1608.04644, sections V and VI: minimise |x' - x|^2 + c max(f_label - max f_other + kappa, 0) over w, where
x' = (tanh w + 1) / 2 stays in the box; c is raised tenfold until it succeeds, then bisected.

Beyond the paper: each sample has its own c, and leaves a search when its own objective stalls (`abort_early`; the
authors' code does so for a batch).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.attack import (
    Attacked,
    Classifier,
    Ledger,
    Norm,
    Sees,
    check_number,
    checked,
    lengths,
    margin,
    remaining,
)
from visus.core.validate import boolean, positive, require


class Constants:
    """Of each sample the weight of being fooled, [B]: tenfold until it is enough, then by halves."""

    def __init__(self, like: Tensor, initial: float):
        self.value = torch.full_like(like, initial)
        self.low, self.high = torch.zeros_like(like), torch.full_like(like, float("inf"))

    def learn(self, found: Tensor) -> None:
        """found: bool [B], whether `value` was enough."""
        self.high = torch.where(found, self.value, self.high)
        self.low = torch.where(found, self.low, self.value)
        self.value = torch.where(self.high.isinf(), self.value * 10, (self.low + self.high) / 2)

    def last(self) -> None:
        """To the smallest value that was enough, for one more search."""
        self.value = self.high.clamp(max=1e10)


def over_constants(images: Tensor, searches: int, initial: float,
                   search: Callable[[Ledger, Tensor, Tensor], Tensor]) -> Attacked:
    """Several searches with constants that are learnt. search(ledger, constants [B], distances of the best [B]) ->
    which samples succeeded, bool [B]."""
    ledger = Ledger(images)
    best = torch.full((len(images),), float("inf"), dtype=images.dtype, device=images.device)
    constants = Constants(best, initial)
    for number in range(searches if len(images) else 0):
        if number == searches - 1 and searches >= 10:
            constants.last()
        constants.learn(search(ledger, constants.value, best))
    return ledger.result()


def hinge(logits: Tensor, labels: Tensor, targets: Tensor | None, confidence: float) -> tuple[Tensor, Tensor]:
    """(max(confidence - margin, 0) [B], whether the margin is above confidence)."""
    gap = margin(logits, labels, targets)
    return (confidence - gap).clamp(min=0), gap.detach() > confidence


def patience(steps: int) -> int:
    """How many steps without a lower objective end a search. Adam passes its goal and comes back: 50 at least."""
    return max(50, steps // 5)


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """confidence: kappa of the paper, by how much the other logit must lead. searches: values of the constant that are
    tried; initial_constant: the first. steps: of Adam in each; step_size: its learning rate. abort_early: a sample
    leaves a search when a fifth of the steps (50 at least) has not lowered its objective by a ten-thousandth."""

    confidence: float = 0.0
    searches: int = 9
    steps: int = 100
    step_size: float = 0.01
    initial_constant: float = 0.01
    abort_early: bool = True
    sees: ClassVar[Sees] = "gradients"
    norm: ClassVar[Norm] = "l2"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(searches=self.searches, steps=self.steps)
        boolean(abort_early=self.abort_early)
        check_number(0, confidence=self.confidence, step_size=self.step_size)
        require(self.initial_constant > 0, "initial_constant", self.initial_constant, "be above 0")

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        return over_constants(images, self.searches, self.initial_constant,
                              lambda ledger, constants, best: self._search(classifier, ledger, labels, targets,
                                                                           constants, best))

    def _search(self, classifier: Classifier, ledger: Ledger, labels: Tensor, targets: Tensor | None,
                constants: Tensor, best: Tensor) -> Tensor:
        """Adam with these constants, for all samples; better images go into the ledger and their distances into
        `best`. Gives whether any iterate of each sample succeeded."""
        rows, origin = ledger.rows, ledger.originals
        centre = ((2 * origin - 1) * 0.999999).atanh()
        base = (centre.tanh() + 1) / 2
        moved, first, second = torch.zeros_like(origin), torch.zeros_like(origin), torch.zeros_like(origin)
        found = torch.zeros_like(ledger.success)
        least, since = torch.full_like(best, float("inf")), torch.zeros_like(rows)
        for step in range(self.steps):
            leaf = moved.requires_grad_()
            with torch.enable_grad():
                images = ((centre + leaf).tanh() + 1) / 2
                logits = classifier(images)
                lack, won = hinge(logits, labels, targets, self.confidence)
                cost = constants * lack + (images - base).flatten(1).square().sum(1)
                (slope,) = torch.autograd.grad(cost.sum(), leaf)
            images, cost, moved = images.detach(), cost.detach(), moved.detach()
            ledger.asked(rows)
            distance = lengths(images - origin, "l2")
            closer = won & (distance < best[rows])
            ledger.done(rows[closer], images[closer], True)
            best[rows[closer]] = distance[closer]
            found[rows[won]] = True
            if self.abort_early:
                lower = cost <= 0.9999 * least
                least, since = torch.where(lower, cost, least), since.masked_fill(lower, step)
                rows, origin, centre, base, moved, first, second, labels, targets, constants, least, since, slope = \
                    remaining(step - since < patience(self.steps), rows, origin, centre, base, moved, first, second,
                              labels, targets, constants, least, since, slope)
                if not len(rows):
                    break
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope.square()
            moved = moved - self.step_size * (first / (1 - 0.9**(step + 1))) / (
                (second / (1 - 0.999**(step + 1))).sqrt() + 1e-8)
            ledger.moved(rows)
        return found


attack.add(CarliniWagner, {"carlini_wagner": {}}, summary="smallest l2 perturbation by Adam and a bisected constant",
           paper="Carlini, Wagner, IEEE S&P 2017, arXiv:1608.04644")
