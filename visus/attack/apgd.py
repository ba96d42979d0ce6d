"""APGD: projected gradient ascent whose step size follows its own progress, and the DLR loss.

Paper: Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
ICML 2020, arXiv:2003.01690: algorithm 1, with conditions 1 and 2 of section 3.2 at the checkpoints w_j; DLR is
equation 6, its targeted form equation 7, where APGD-T takes in turn the most likely classes beside the label. Where
there are fewer than the 3 (4 for the targeted form) classes that the denominator names, the last one stands for them.
A sample that is fooled leaves the batch (`early_stop`), which changes nothing of robust accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.attack import (
    USUAL_EPS,
    Attacked,
    Classifier,
    Ledger,
    Norm,
    Sees,
    check_eps,
    check_norm,
    checked,
    cross_entropy,
    fooled,
    gradient,
    lengths,
    over,
    project,
    remaining,
    seeded,
    steepest,
)
from visus.core.validate import boolean, one_of, positive

Loss = Literal["cross_entropy", "dlr", "dlr_targeted"]
MOMENTUM, PROGRESS = 0.75, 0.75  # alpha of equation 4; rho of condition 1


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Equation 6, [B]: -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)); the same for
    logits that are shifted or scaled."""
    order = logits.sort(1, descending=True).values
    own = logits.gather(1, labels[:, None])[:, 0]
    other = torch.where(own == order[:, 0], order[:, 1], order[:, 0])
    return (other - own) / (order[:, 0] - order[:, min(2, logits.shape[1] - 1)] + 1e-12)


def dlr_targeted(logits: Tensor, labels: Tensor, aims: Tensor) -> Tensor:
    """Equation 7, [B]: -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)."""
    order = logits.sort(1, descending=True).values
    third, fourth = (order[:, min(place, logits.shape[1] - 1)] for place in (2, 3))
    own, aim = (logits.gather(1, classes[:, None])[:, 0] for classes in (labels, aims))
    return (aim - own) / (order[:, 0] - (third + fourth) / 2 + 1e-12)


def checkpoints(steps: int) -> list[int]:
    """w_j of section 3.2: 0, then after 22 %, each period 3 % shorter but never below 6 %."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [math.ceil(round(share * steps, 6)) for share in shares if share < 1]


@dataclass(frozen=True, kw_only=True)
class APGD:
    """norm: linf or l2. eps: the radius; None is 8/255 or 0.5. steps: of one climb. restarts: climbs from fresh starts
    (of each class that is aimed at). loss: cross_entropy, dlr, or dlr_targeted, which aims in turn at the `classes`
    likeliest wrong ones. early_stop: a sample is done when it is fooled; without it the image of greatest loss is
    sought."""

    norm: Norm = "linf"
    eps: float | None = None
    steps: int = 100
    restarts: int = 1
    loss: Loss = "cross_entropy"
    classes: int = 9
    early_stop: bool = True
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2"))
        positive(steps=self.steps, restarts=self.restarts, classes=self.classes)
        one_of(("cross_entropy", "dlr", "dlr_targeted"), loss=self.loss)
        boolean(early_stop=self.early_stop)
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger, generator = Ledger(images), seeded(generator)
        if not len(images):
            return ledger.result()
        with torch.no_grad():
            logits = classifier(ledger.originals)
        ledger.asked(ledger.rows)
        ledger.success |= fooled(logits, labels, targets)
        aims: list[Tensor | None] = [targets]
        if self.loss == "dlr_targeted" and targets is None:
            aims = list(likely_wrong(logits, labels, self.classes).unbind(1))
        for aim in aims:
            for _ in range(self.restarts):
                start = self._start(ledger.originals, generator)
                rows, start, own, asked, towards = remaining(
                    ~ledger.success if self.early_stop else torch.ones_like(ledger.success), ledger.rows, start, labels,
                    targets, aim)
                if len(rows):
                    self._climb(classifier, ledger, rows, start, own, asked, towards)
        return ledger.result()

    def _start(self, images: Tensor, generator: Generator) -> Tensor:
        """A random direction, as far as the ball goes."""
        assert self.eps is not None
        shape = images.shape
        drawn = torch.rand(shape, generator=generator).mul_(2).sub_(1) if self.norm == "linf" \
            else torch.randn(shape, generator=generator)
        drawn = self.eps * drawn / over(lengths(drawn, self.norm).clamp(min=1e-12), drawn)
        return (images + drawn.to(images)).clamp(0, 1)

    def _objective(self, labels: Tensor, aim: Tensor | None) -> Callable[[Tensor], Tensor]:
        if self.loss == "cross_entropy":
            return cross_entropy(labels, aim)
        if aim is None:
            return lambda logits: dlr(logits, labels)
        return lambda logits: dlr_targeted(logits, labels, aim)

    def _climb(self, classifier: Classifier, ledger: Ledger, rows: Tensor, moved: Tensor, labels: Tensor,
               targets: Tensor | None, aim: Tensor | None) -> None:
        assert self.eps is not None
        eps, origin = self.eps, ledger.originals[rows]
        step = torch.full((len(rows),), 2 * eps, dtype=origin.dtype, device=origin.device)
        best, top = moved, torch.full_like(step, float("-inf"))  # x_max and f_max
        slope_there = torch.zeros_like(moved)
        loss_before = top
        rises = torch.zeros_like(step)
        step_then, top_then = step, top  # at the last checkpoint
        before = moved
        marks = checkpoints(self.steps)
        won = torch.zeros_like(rows, dtype=torch.bool)  # x_max is worth keeping, whatever its loss, once it fools
        for number in range(self.steps + 1):
            logits, slope = gradient(classifier, moved, self._objective(labels, aim))
            loss = self._objective(labels, aim)(logits)
            ledger.asked(rows)
            fools = fooled(logits, labels, targets)
            if self.early_stop:
                ledger.done(rows[fools], moved[fools], True)
                (rows, origin, moved, labels, targets, aim, step, best, top, slope_there, loss_before, rises, step_then,
                 top_then, before, won, slope, loss, fools) = remaining(
                    ~fools, rows, origin, moved, labels, targets, aim, step, best, top, slope_there, loss_before, rises,
                    step_then, top_then, before, won, slope, loss, fools)
                if not len(rows):
                    return
            better = loss > top
            best = torch.where(over(better, best), moved, best)
            slope_there = torch.where(over(better, best), slope, slope_there)
            won = torch.where(better, fools, won)
            top = torch.maximum(loss, top)
            if number:
                rises = rises + (loss > loss_before)
            loss_before = loss
            if number == self.steps:
                break
            if number in marks[1:]:
                period = number - marks[marks.index(number) - 1]
                halve = (rises < PROGRESS * period) | ((step == step_then) & (top == top_then))
                step_then, top_then = step, top
                step = torch.where(halve, step / 2, step)
                moved = torch.where(over(halve, moved), best, moved)
                before = torch.where(over(halve, moved), moved, before)
                slope = torch.where(over(halve, slope), slope_there, slope)
                loss_before = torch.where(halve, top, loss_before)
                rises = torch.zeros_like(rises)
            straight = self._inside(origin, moved + over(step, moved) * steepest(slope, self.norm))
            share = MOMENTUM if number else 1.0
            further = self._inside(origin, moved + share * (straight - moved) + (1 - share) * (moved - before))
            before, moved = moved, further
            ledger.moved(rows)
        known = ledger.success[rows]
        write = (won & ~known) | ((won == known) & (top > ledger.loss[rows]))
        ledger.done(rows[write], best[write], won[write])
        ledger.loss[rows[write]] = top[write].to(ledger.loss.dtype)

    def _inside(self, origin: Tensor, images: Tensor) -> Tensor:
        assert self.eps is not None
        return (origin + project(images - origin, self.eps, self.norm)).clamp_(0, 1)


def likely_wrong(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """int64 [B, up to count]: the classes beside the label, likeliest first."""
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


_PAPER = "Croce, Hein, ICML 2020, arXiv:2003.01690"
attack.add(APGD, {"apgd": {}, "apgd_dlr": {"loss": "dlr"}, "apgd_t": {"loss": "dlr_targeted"}},
           summary="gradient ascent that sets its own step size, with cross-entropy, DLR or targeted DLR", paper=_PAPER)
