"""SparseFool: few components, by the flat boundary that DeepFool finds.

Paper: Modas, Moosavi-Dezfooli, Frossard, SparseFool: a Few Pixels Make a Big Difference, CVPR 2019, arXiv:1811.02248,
algorithms 1 and 2: DeepFool gives a point on the boundary and the normal there; components are moved one after the
other, that of the largest normal first, each as far as the box allows, until the (by `reach` farther) plane is passed.

The linear part needs no loop here: components sorted by their normal, what each can add within the box summed up, and
the first sum that is enough tells how many move. Each component belongs to one channel of one pixel.
"""

from __future__ import annotations

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
    fooled,
    gradient,
    over,
    remaining,
)
from visus.attack.deepfool import deepfool
from visus.core.validate import positive, require


def fewest(images: Tensor, normal: Tensor, needed: Tensor) -> Tensor:
    """Images moved within [0, 1] in the fewest components such that normal . (moved - images) reaches `needed`, [B].
    The components of the largest |normal| go to the end of the box; the last one as far as is needed. Where all of them
    are not enough, all have moved."""
    flat, slope = images.flatten(1), normal.flatten(1)
    room = torch.where(slope > 0, 1 - flat, flat)  # how far each can go along its sign
    open_ = room > 0
    order = torch.where(open_, slope.abs(), -1.0).argsort(dim=1, descending=True, stable=True)
    gain = (slope.abs() * room).gather(1, order)
    before = gain.cumsum(1) - gain
    share = ((needed[:, None] - before) / gain.clamp(min=1e-30)).clamp(0, 1) * (gain > 0)
    moves = torch.zeros_like(flat).scatter(1, order, share * room.gather(1, order)) * slope.sign()
    return (flat + moves).clamp(0, 1).view_as(images)


@dataclass(frozen=True, kw_only=True)
class SparseFool:
    """steps: of the outer loop. reach: lambda of the paper, how many times as far as DeepFool's point the plane is put;
    above 1 it fools more and moves more. overshoot: of the result. candidates: of DeepFool."""

    steps: int = 20
    reach: float = 3.0
    overshoot: float = 0.02
    candidates: int = 9
    sees: ClassVar[Sees] = "gradients"
    norm: ClassVar[Norm] = "l0"
    targeted: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(steps=self.steps, candidates=self.candidates)
        check_number(0, overshoot=self.overshoot)
        require(isinstance(self.reach, int | float) and self.reach >= 1, "reach", self.reach, "be at least 1")

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger = Ledger(images)
        rows, origin, moved = ledger.rows, ledger.originals, ledger.originals
        for number in range(self.steps + 1):
            if not len(rows):
                break
            with torch.no_grad():
                gone = fooled(classifier(moved), labels)
            ledger.asked(rows)
            ledger.done(rows[gone], moved[gone], True)
            if number == self.steps:
                ledger.done(rows[~gone], moved[~gone], False)
                break
            rows, origin, moved, labels = remaining(~gone, rows, origin, moved, labels)
            if not len(rows):
                break
            inner = Ledger(moved)
            deepfool(classifier, inner, labels, norm="l2", steps=50, overshoot=0.02, candidates=self.candidates)
            ledger.asked(rows, inner.queries)
            point = inner.images
            _, normal = gradient(classifier, point, lambda z, own=labels: _lead(z, own))  # type: ignore[misc]
            ledger.asked(rows)
            normal = normal / over(normal.flatten(1).norm(dim=1).clamp(min=1e-30), normal)
            plane = moved + self.reach * (point - moved)
            needed = ((plane - moved) * normal).flatten(1).sum(1).clamp(min=1e-4)
            solved = fewest(moved, normal, needed)
            moved = (moved + (1 + self.overshoot) * (solved - moved)).clamp(0, 1)
            ledger.moved(rows)
        return ledger.result()


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """[B]: the largest other logit less the label's."""
    return logits.scatter(1, labels[:, None], float("-inf")).amax(1) - logits.gather(1, labels[:, None])[:, 0]


attack.add(SparseFool, {"sparse_fool": {}}, summary="few components, by the flat boundary that DeepFool finds",
           paper="Modas, Moosavi-Dezfooli, Frossard, CVPR 2019, arXiv:1811.02248")
