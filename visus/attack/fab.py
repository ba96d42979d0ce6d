"""FAB, the fast adaptive boundary attack, in its targeted form: the smallest change that crosses a boundary.

Paper: Croce, Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020,
arXiv:1907.02044: algorithm 1; FAB-T, of AutoAttack (arXiv:2003.01690, section 4), looks at the boundary between the
label and one class at a time. Each step projects the point and the original onto the plane where the two logits would
be equal, within [0, 1] (equation 8), goes to a mixture of both (equations 9 and 10), and where it crossed, remembers
the point if it is nearer and falls back towards the original. At the end three bisections on the way to the original.

The projection within the box: the multiplier of its dual is where a sum of capped slopes reaches what is missing, found
by sorting where the caps begin (section 3.1 of the paper's problem 6, here written for both norms at once).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.apgd import likely_wrong
from visus.attack.attack import (
    Attacked,
    Classifier,
    Ledger,
    Norm,
    Sees,
    check_eps,
    check_norm,
    check_number,
    checked,
    fooled,
    gradient,
    lengths,
    over,
    remaining,
    seeded,
)
from visus.core.validate import positive, require

BISECTIONS = 3


def boxed_projection(points: Tensor, normals: Tensor, missing: Tensor, norm: str) -> Tensor:
    """The smallest v in `norm` with <normals, v> = missing and points + v in [0, 1]; as far as the box lets it where
    there is none. points, normals: [B, D]; missing: [B]; norm: linf or l2 -> [B, D].

    v_i = sign_i min(m, cap_i) for linf and sign_i min(m |w_i|, cap_i) for l2, with one multiplier m for each row.
    """
    normals = torch.where((missing < 0)[:, None], -normals, normals)
    missing = missing.abs()
    weight = normals.abs()
    room = torch.where(normals > 0, 1 - points, points).clamp(min=0)
    if norm == "linf":
        slope, cap = weight, room
    else:
        slope, cap = weight.square(), room / weight.clamp(min=1e-30)
    cap, order = cap.sort(1)
    slope = slope.gather(1, order)
    left = slope.flip(1).cumsum(1).flip(1)  # the slope of what is not yet capped, from place i on
    capped = (slope * cap).cumsum(1) - slope * cap  # what the places before i give
    # the first place whose cap is beyond the multiplier that the places from it on would need
    needed = (missing[:, None] - capped) / left.clamp(min=1e-30)
    fits = (needed <= cap) & (left > 0)
    place = torch.where(fits.any(1), fits.float().argmax(1), slope.shape[1] - 1)
    multiplier = torch.where(fits.any(1), needed.gather(1, place[:, None])[:, 0],
                             torch.full_like(missing, torch.finfo(points.dtype).max))[:, None]
    length = torch.minimum(multiplier.expand_as(room), room) if norm == "linf" else \
        torch.minimum(multiplier * weight, room)
    return normals.sign() * length


@dataclass(frozen=True, kw_only=True)
class FAB:
    """norm: linf or l2. eps: a sample is done when something within it is found; None seeks the smallest change. steps:
    for each class. restarts: the first from the image itself, others from near it. classes: the most likely wrong
    classes whose boundaries are tried in turn. alpha_max: the largest share of the original's projection. overshoot:
    eta of the paper. backward: beta, how much is kept on falling back."""

    norm: Norm = "linf"
    eps: float | None = None
    steps: int = 100
    restarts: int = 1
    classes: int = 9
    alpha_max: float = 0.1
    overshoot: float = 1.05
    backward: float = 0.9
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2"))
        positive(steps=self.steps, restarts=self.restarts, classes=self.classes)
        check_number(1, overshoot=self.overshoot)
        require(0 <= self.alpha_max <= 1, "alpha_max", self.alpha_max, "lie in [0, 1]")
        require(0 < self.backward < 1, "backward", self.backward, "lie in (0, 1)")
        if self.eps is not None:
            check_eps(self.eps)

    @property
    def random(self) -> bool:
        return self.restarts > 1

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger, generator = Ledger(images), seeded(generator)
        if not len(images):
            return ledger.result()
        with torch.no_grad():
            logits = classifier(ledger.originals)
        ledger.asked(ledger.rows)
        at_start = fooled(logits, labels, targets)
        ledger.success |= at_start
        nearest = torch.where(at_start, 0.0, torch.inf).to(images)
        aims = likely_wrong(logits, labels, self.classes) if targets is None else targets[:, None]
        for restart in range(self.restarts):
            for aim in aims.unbind(1):
                keep = nearest > 0 if self.eps is None else ~ledger.success
                rows, own, asked, towards = remaining(keep, ledger.rows, labels, targets, aim)
                if len(rows):
                    self._search(classifier, ledger, nearest, rows, own, asked, towards, restart, generator)
        found = nearest.isfinite() & ~at_start
        self._bisect(classifier, ledger, ledger.rows[found], labels[found], None if targets is None else targets[found])
        return ledger.result()

    def _search(self, classifier: Classifier, ledger: Ledger, nearest: Tensor, rows: Tensor, labels: Tensor,
                targets: Tensor | None, aim: Tensor, restart: int, generator: Generator) -> None:
        origin = ledger.originals[rows]
        moved = origin
        if restart:  # within half of the best radius so far
            drawn = torch.randn(origin.shape, generator=generator).to(origin)
            radius = torch.where(nearest[rows].isfinite(), nearest[rows], 0.1 if self.norm == "linf" else 1.0) / 2
            moved = (origin + over(radius / lengths(drawn, self.norm).clamp(min=1e-12), drawn) * drawn).clamp(0, 1)
        for _ in range(self.steps):
            def boundary(logits: Tensor) -> Tensor:
                return (logits.gather(1, aim[:, None]) - logits.gather(1, labels[:, None]))[:, 0]  # noqa: B023

            logits, slope = gradient(classifier, moved, boundary)
            ledger.asked(rows)
            gap = boundary(logits)
            slope, flat, first = slope.flatten(1), moved.flatten(1), origin.flatten(1)
            # <slope, p> = <slope, moved> - gap is the plane; what is missing from each point to it
            step = boxed_projection(flat, slope, -gap, self.norm)
            back = boxed_projection(first, slope, (slope * (flat - first)).sum(1) - gap, self.norm)
            far, far_back = (lengths(v.view_as(origin), self.norm) for v in (step, back))
            share = (far / (far + far_back).clamp(min=1e-12)).clamp(max=self.alpha_max)[:, None]
            flat = (1 - share) * (flat + self.overshoot * step) + share * (first + self.overshoot * back)
            moved = flat.view_as(origin).clamp(0, 1)
            with torch.no_grad():
                crossed = fooled(classifier(moved), labels, targets)
            ledger.asked(rows)
            ledger.moved(rows)
            away = lengths(moved - origin, self.norm)
            better = crossed & (away < nearest[rows])
            nearest[rows[better]] = away[better]
            if self.eps is None:
                ledger.done(rows[better], moved[better], True)
                gone = torch.zeros_like(crossed)
            else:
                gone = better & (away <= self.eps)
                ledger.done(rows[gone], moved[gone], True)
            moved = torch.where(over(crossed, moved), origin + self.backward * (moved - origin), moved)
            rows, origin, moved, labels, targets, aim = remaining(~gone, rows, origin, moved, labels, targets, aim)
            if not len(rows):
                return

    @torch.no_grad()
    def _bisect(self, classifier: Classifier, ledger: Ledger, rows: Tensor, labels: Tensor,
                targets: Tensor | None) -> None:
        """Nearer on the straight way to the original, where an image was found."""
        rows, labels, targets = remaining(ledger.success[rows], rows, labels, targets)
        if not len(rows) or self.eps is not None:
            return
        low = torch.zeros(len(rows), dtype=ledger.images.dtype, device=ledger.images.device)
        high = torch.ones_like(low)
        origin, far = ledger.originals[rows], ledger.images[rows]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            tried = origin + over(middle, far) * (far - origin)
            won = fooled(classifier(tried), labels, targets)
            ledger.asked(rows)
            ledger.done(rows[won], tried[won], True)
            low, high = torch.where(won, low, middle), torch.where(won, middle, high)


attack.add(FAB, {"fab": {}}, summary="the smallest change that crosses the boundary to one class after another",
           paper="Croce, Hein, ICML 2020, arXiv:1907.02044")
