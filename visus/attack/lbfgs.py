"""The first attack on deep nets: the nearest image of another class by L-BFGS within the box.

Paper: Szegedy, Zaremba, Sutskever, Bruna, Erhan, Goodfellow, Fergus, Intriguing Properties of Neural Networks, ICLR
2014, arXiv:1312.6199, section 4.1: minimise c |r|^2 + loss(x + r, target) with x + r in [0, 1], and line-search c; here
the weight is on the loss, raised tenfold until the target is reached and then bisected.

The minimiser is L-BFGS (Nocedal 1980) for a whole batch, each sample with its own history and step length: components
at a bound that would leave the box stay, the step is projected, and halved until Armijo's condition holds (Bertsekas
1982). Without a target the runner-up of each image is it, and any wrong answer is success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from visus import attack
from visus.attack.attack import Attacked, Classifier, Ledger, Norm, Sees, checked, fooled, lengths, over
from visus.attack.carlini_wagner import Constants
from visus.core.validate import positive, require


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """searches: values of the loss's weight that are tried; initial_constant: the first. steps: of the minimiser in
    each. memory: earlier steps that it remembers. halvings: of a step at most."""

    searches: int = 8
    steps: int = 20
    initial_constant: float = 0.1
    memory: int = 8
    halvings: int = 6
    sees: ClassVar[Sees] = "gradients"
    norm: ClassVar[Norm] = "l2"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(searches=self.searches, steps=self.steps, memory=self.memory, halvings=self.halvings)
        require(self.initial_constant > 0, "initial_constant", self.initial_constant, "be above 0")

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger = Ledger(images)
        if not len(images):
            return ledger.result()
        with torch.no_grad():
            logits = classifier(images)
        ledger.asked(ledger.rows)
        aim = logits.scatter(1, labels[:, None], float("-inf")).argmax(1) if targets is None else targets
        there = fooled(logits, labels, targets)
        ledger.done(ledger.rows[there], images[there], True)
        rows = ledger.rows[~there]
        best = torch.full((len(rows),), float("inf"), dtype=images.dtype, device=images.device)
        constants = Constants(best, self.initial_constant)
        for _ in range(self.searches if len(rows) else 0):
            constants.learn(self._search(classifier, ledger, rows, labels[rows], None if targets is None
                                         else targets[rows], aim[rows], constants.value, best))
        return ledger.result()

    def _search(self, classifier: Classifier, ledger: Ledger, rows: Tensor, labels: Tensor, targets: Tensor | None,
                aim: Tensor, constants: Tensor, best: Tensor) -> Tensor:
        """Minimises for these rows; nearer fooling images go into the ledger, their distances into `best`. Gives
        whether any of each sample's points fooled."""
        origin = ledger.originals[rows]
        found = torch.zeros_like(rows, dtype=torch.bool)

        def value_and_slope(points: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            leaf = points.detach().requires_grad_()
            with torch.enable_grad():
                logits = classifier(leaf)
                value = constants[which] * F.cross_entropy(logits, aim[which], reduction="none") \
                    + (leaf - origin[which]).flatten(1).square().sum(1)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            ledger.asked(rows[which])
            won = fooled(logits.detach(), labels[which], None if targets is None else targets[which])
            away = lengths(points - origin[which], "l2")
            found[which[won]] = True
            closer = won & (away < best[which])
            best[which[closer]] = away[closer]
            ledger.done(rows[which[closer]], points[closer], True)
            return value.detach(), slope

        every = torch.arange(len(rows), device=rows.device)
        moved = origin.clone()
        value, slope = value_and_slope(moved, every)
        history: list[tuple[Tensor, Tensor]] = []
        going = torch.ones_like(found)
        for _ in range(self.steps):
            held = ((moved <= 0) & (slope > 0)) | ((moved >= 1) & (slope < 0))
            direction = -_two_loops(slope.masked_fill(held, 0.0), history)
            direction = direction.masked_fill(held, 0.0)
            fall = (direction * slope).flatten(1).sum(1)
            up = fall >= 0  # no way down: along the gradient
            direction = torch.where(over(up, slope), -slope.masked_fill(held, 0.0), direction)
            if not history:  # nothing is known of the scale yet: a step of a length that can be seen
                size = lengths(direction, "l2").clamp(min=1e-12)
                direction = direction * over((0.5 / size).clamp(max=1.0), direction)
            pace = torch.ones_like(value)
            new, new_value, new_slope = moved.clone(), value.clone(), slope.clone()
            trying = going.nonzero()[:, 0]
            for _ in range(self.halvings):
                if not len(trying):
                    break
                points = (moved[trying] + over(pace[trying], moved) * direction[trying]).clamp(0, 1)
                values, slopes = value_and_slope(points, trying)
                drop = ((points - moved[trying]) * slope[trying]).flatten(1).sum(1)
                good = values <= value[trying] + 1e-4 * drop.clamp(max=0)
                taken = trying[good]
                new[taken], new_value[taken], new_slope[taken] = points[good], values[good], slopes[good]
                trying = trying[~good]
                pace[trying] *= 0.5
            going = going & (new_value < value * (1 - 1e-5))
            ledger.moved(rows[going])
            history = [*history, (new - moved, new_slope - slope)][-self.memory:]
            moved, value, slope = new, new_value, new_slope
            if not going.any():
                break
        return found


def _two_loops(slope: Tensor, history: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The inverse Hessian of the history times the gradient, row by row (Nocedal 1980). Pairs (step, change of the
    gradient) without positive curvature count as none in the row that has them."""
    q, shares = slope, []
    for step, change in reversed(history):
        curve = (step * change).flatten(1).sum(1)
        usable = curve > 1e-10
        weight = torch.where(usable, 1 / curve.clamp(min=1e-10), 0.0)
        share = weight * (step * q).flatten(1).sum(1)
        q = q - over(share, q) * change
        shares.append((step, change, weight, share))
    scale = torch.ones_like(slope[:, 0, 0, 0])
    for step, change in history:  # the last usable pair sets the scale
        curve = (step * change).flatten(1).sum(1)
        scale = torch.where(curve > 1e-10, curve / change.flatten(1).square().sum(1).clamp(min=1e-20), scale)
    q = over(scale, q) * q
    for step, change, weight, share in reversed(shares):
        other = weight * (change * q).flatten(1).sum(1)
        q = q + over(share - other, q) * step
    return q


attack.add(LBFGS, {"lbfgs": {}}, summary="the nearest image of another class by L-BFGS within the box",
           paper="Szegedy, Zaremba, Sutskever, Bruna, Erhan, Goodfellow, Fergus, ICLR 2014, arXiv:1312.6199")
