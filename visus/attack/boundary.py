"""Boundary attack: a walk along the boundary towards the original, by the classifier's answers alone.

Paper: Brendel, Rauber, Bethge, Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning
Models, ICLR 2018, arXiv:1712.04248: algorithm 1 and figure 2: a step at random on the sphere around the original, then
one towards it; both lengths follow how often they succeed. The start is noise that is answered wrongly, led to the
boundary by bisection. Each sample has its own lengths. A walk needs thousands of steps to come near.
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
    check_eps,
    check_number,
    checked,
    fooled,
    lengths,
    over,
    remaining,
    seeded,
)
from visus.core.validate import natural, positive

LOOK = 10  # steps between looks at the random step alone; lengths change at each
GROW = 1.5
BISECTIONS = 10


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """eps: a sample is done within this l2 distance; None goes on for all steps. steps: of the walk. starts: noise
    images tried for one that is answered wrongly. sideways, towards: the first lengths, as shares of the distance."""

    eps: float | None = None
    steps: int = 1000
    starts: int = 50
    sideways: float = 0.1
    towards: float = 0.05
    norm: ClassVar[Norm] = "l2"
    sees: ClassVar[Sees] = "answers"
    targeted: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        natural(steps=self.steps)
        positive(starts=self.starts)
        check_number(1e-6, sideways=self.sideways, towards=self.towards)
        if self.eps is not None:
            check_eps(self.eps)

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger, generator = Ledger(images), seeded(generator)
        if not len(images):
            return ledger.result()
        ledger.success |= fooled(classifier(ledger.originals), labels)
        ledger.asked(ledger.rows)
        rows, labels = remaining(~ledger.success, ledger.rows, labels)
        rows, here, labels = self._begin(classifier, ledger, rows, labels, generator)
        if not len(rows):
            return ledger.result()
        origin = ledger.originals[rows]
        sideways = torch.full((len(rows),), self.sideways, dtype=origin.dtype, device=origin.device)
        towards = torch.full_like(sideways, self.towards)
        nearer = torch.zeros_like(sideways)  # how many of the last LOOK steps succeeded
        for step in range(1, self.steps + 1):
            away = here - origin
            far = lengths(away, "l2")
            noise = torch.randn(origin.shape, generator=generator).to(origin)
            unit = away / over(far.clamp(min=1e-12), away)
            noise = noise - over((noise * unit).flatten(1).sum(1), noise) * unit  # along the sphere
            noise = noise * over(sideways * far / lengths(noise, "l2").clamp(min=1e-12), noise)
            around = away + noise
            around = around * over(far / lengths(around, "l2").clamp(min=1e-12), around)
            tried = (origin + around * over(1 - towards, around)).clamp(0, 1)
            won = fooled(classifier(tried), labels)
            ledger.asked(rows)
            ledger.moved(rows)
            nearer = nearer + won
            better = won & (lengths(tried - origin, "l2") < far)
            here = torch.where(over(better, here), tried, here)
            if step % LOOK == 0:
                on_sphere = fooled(classifier((origin + around).clamp(0, 1)), labels)
                ledger.asked(rows)
                # one look says little: half of them should succeed, and a quarter of the steps inwards
                sideways = torch.where(on_sphere, sideways * GROW, sideways / GROW).clamp(1e-4, 1.0)
                towards = torch.where(nearer > LOOK / 4, towards * GROW, towards / GROW).clamp(1e-5, 0.5)
                nearer = torch.zeros_like(nearer)
            ledger.done(rows[better], here[better], True)
            if self.eps is not None:
                gone = lengths(here - origin, "l2") <= self.eps
                rows, origin, here, labels, sideways, towards, nearer = remaining(
                    ~gone, rows, origin, here, labels, sideways, towards, nearer)
                if not len(rows):
                    break
        if self.eps is not None:  # what is left is not near enough
            ledger.done(rows, origin, False)
        return ledger.result()

    def _begin(self, classifier: Classifier, ledger: Ledger, rows: Tensor, labels: Tensor,
               generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, images at the boundary, labels) of the samples for which a start was found."""
        found = torch.zeros_like(rows, dtype=torch.bool)
        start = ledger.originals[rows].clone()
        for _ in range(self.starts):
            open_ = (~found).nonzero()[:, 0]
            if not len(open_):
                break
            noise = torch.rand((len(open_), *start.shape[1:]), generator=generator).to(start)
            won = fooled(classifier(noise), labels[open_])
            ledger.asked(rows[open_])
            start[open_[won]], found[open_[won]] = noise[won], True
        rows, start, labels = remaining(found, rows, start, labels)
        if not len(rows):
            return rows, start, labels
        origin = ledger.originals[rows]
        low = torch.zeros(len(rows), dtype=start.dtype, device=start.device)
        high = torch.ones_like(low)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            won = fooled(classifier(origin + over(middle, start) * (start - origin)), labels)
            ledger.asked(rows)
            low, high = torch.where(won, low, middle), torch.where(won, middle, high)
        here = (origin + over(high, start) * (start - origin)).clamp(0, 1)
        ledger.moved(rows)
        ledger.done(rows, here, True)
        return rows, here, labels


attack.add(Boundary, {"boundary": {}}, summary="a random walk along the boundary; needs the answers alone",
           paper="Brendel, Rauber, Bethge, ICLR 2018, arXiv:1712.04248")
