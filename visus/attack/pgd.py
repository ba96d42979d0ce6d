"""Projected gradient descent: steps up the loss from a random point of the ball, each put back into the ball.

Paper: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
2018, arXiv:1706.06083, equation in section 2.1: x <- P(x + a sign(grad L)). The steps for l2 and l1 are those of
`steepest`. Beyond the paper: `early_stop`, which counts a sample as soon as any iterate fools the classifier and lets
it leave the batch. The answer can only be the last iterate's or an earlier one, so that robust accuracy is at most that
of the plain form, for a share of the work. Before a gradient is asked for, samples that a linear forecast of their
margin calls fooled are looked at without one.
"""

from __future__ import annotations

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
    check_number,
    checked,
    cross_entropy,
    fooled,
    gradient,
    margin,
    over,
    project,
    random_start,
    remaining,
    seeded,
    steepest,
)
from visus.core.validate import boolean, natural, one_of, positive, require

Loss = Literal["cross_entropy", "margin"]


@dataclass(frozen=True, kw_only=True)
class Climb:
    """How `climb` moves: steps of length step_size in `norm` within eps. momentum: share of the summed earlier
    gradients, each by its l1 length, that is kept. sparsity: as `share` of `steepest`."""

    norm: str
    eps: float
    step_size: float
    steps: int
    early_stop: bool
    loss: Loss = "cross_entropy"
    momentum: float | None = None
    sparsity: float = 0.05


def objective(loss: str, labels: Tensor, targets: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Logits -> [B], to be raised."""
    return cross_entropy(labels, targets) if loss == "cross_entropy" else lambda z: margin(z, labels, targets)


def climb(classifier: Classifier, ledger: Ledger, rows: Tensor, start: Tensor, labels: Tensor, targets: Tensor | None,
          how: Climb, aim: Tensor | None = None) -> None:
    """Moves the samples `rows` from the images `start` (their rows alone) and writes into the ledger.

    labels, targets: of those rows; they say what success is. aim: classes to climb to where they are not the targets.
    A sample that fails is written when its loss is above that of an earlier climb (`ledger.loss`).
    """
    origin, moved = ledger.originals[rows], start
    velocity = torch.zeros_like(start) if how.momentum is not None else None
    forecast = torch.zeros_like(rows, dtype=torch.bool)  # those that look fooled from afar
    aim = targets if aim is None else aim
    for _ in range(how.steps):
        if how.early_stop and forecast.any():
            gone = forecast.clone()
            with torch.no_grad():
                gone[forecast] = fooled(classifier(moved[forecast]), labels[forecast],
                                        None if targets is None else targets[forecast])
            ledger.asked(rows[forecast])
            ledger.done(rows[gone], moved[gone], True)
            rows, origin, moved, labels, targets, aim, velocity = remaining(
                ~gone, rows, origin, moved, labels, targets, aim, velocity)
            if not len(rows):
                return
        logits, slope = gradient(classifier, moved, objective(how.loss, labels, aim))
        ledger.asked(rows)
        if how.early_stop:
            gone = fooled(logits, labels, targets)
            ledger.done(rows[gone], moved[gone], True)
            rows, origin, moved, labels, targets, aim, velocity, logits, slope = remaining(
                ~gone, rows, origin, moved, labels, targets, aim, velocity, logits, slope)
            if not len(rows):
                return
        direction = slope
        if velocity is not None:
            assert how.momentum is not None
            velocity = how.momentum * velocity + slope / over(slope.abs().flatten(1).sum(1).clamp(min=1e-30), slope)
            direction = velocity
        if how.norm == "l1":  # few components move: not those that could only leave the box
            direction = direction.masked_fill(((moved <= 0) & (direction < 0)) | ((moved >= 1) & (direction > 0)), 0.0)
        step = how.step_size * steepest(direction, how.norm, how.sparsity)
        before, moved = moved, (origin + project(moved + step - origin, how.eps, how.norm)).clamp_(0, 1)
        ledger.moved(rows)
        if how.early_stop:
            rise = ((moved - before) * slope).flatten(1).sum(1)
            if how.loss == "cross_entropy":  # its slope is that of the margin times 1 - p of the class it is about
                classes = labels if aim is None else aim
                rise = rise / (1 - logits.softmax(1).gather(1, classes[:, None])[:, 0]).clamp(min=1e-7)
            forecast = margin(logits, labels, aim) + rise > 0
    with torch.no_grad():
        logits = classifier(moved)
    ledger.asked(rows)
    won = fooled(logits, labels, targets)
    loss = objective(how.loss, labels, aim)(logits)
    better = (won & ~ledger.success[rows]) | ((won == ledger.success[rows]) & (loss > ledger.loss[rows]))
    ledger.done(rows[better], moved[better], won[better])
    ledger.loss[rows[better]] = loss[better].to(ledger.loss.dtype)


@dataclass(frozen=True, kw_only=True)
class PGD:
    """norm: linf, l2 or l1. eps: the radius; None is 8/255, 0.5 or 12. steps; step_size: None is 2.5 eps / steps.
    random_start: from a point drawn in the ball. restarts: climbs, each from its own start; the best counts.
    early_stop: a sample is done when an iterate fools the classifier; without it all steps are taken, for examples of
    greatest loss. loss: cross_entropy, or margin (best other logit less the label's). sparsity: for l1, the share of
    components that a step moves."""

    norm: Norm = "linf"
    eps: float | None = None
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    early_stop: bool = True
    loss: Loss = "cross_entropy"
    sparsity: float = 0.05
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2", "l1"))
        natural(steps=self.steps)
        positive(restarts=self.restarts)
        boolean(random_start=self.random_start, early_stop=self.early_stop)
        one_of(("cross_entropy", "margin"), loss=self.loss)
        require(0 < self.sparsity <= 1, "sparsity", self.sparsity, "lie in (0, 1]")
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]
        if self.step_size is not None:
            check_number(0, step_size=self.step_size)
        require(self.random_start or self.restarts == 1, "restarts", self.restarts,
                "be 1 without a random start: all would be the same")

    @property
    def random(self) -> bool:
        return self.random_start

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        assert self.eps is not None
        how = Climb(norm=self.norm, eps=self.eps, steps=self.steps, early_stop=self.early_stop, loss=self.loss,
                    step_size=2.5 * self.eps / max(self.steps, 1) if self.step_size is None else self.step_size,
                    sparsity=self.sparsity)
        ledger, generator = Ledger(images), seeded(generator)
        for _ in range(self.restarts):
            start = images
            if self.random_start:  # drawn for all, so that a sample's start does not hang on the others' success
                start = (images + random_start(images, self.eps, self.norm, generator)).clamp(0, 1)
            rows, start, own, asked = remaining(
                ~ledger.success if self.early_stop else torch.ones_like(ledger.success), ledger.rows, start, labels,
                targets)
            if len(rows):
                climb(classifier, ledger, rows, start, own, asked, how)
        return ledger.result()


attack.add(PGD, {"pgd": {}}, summary="projected gradient steps from a random start, with restarts",
           paper="Madry, Makelov, Schmidt, Tsipras, Vladu, ICLR 2018, arXiv:1706.06083")
