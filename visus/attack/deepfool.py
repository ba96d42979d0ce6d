"""DeepFool: the shortest step to the nearest boundary of the linearised classifier, again and again.

Paper: Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a Simple and Accurate Method to Fool Deep Neural Networks, CVPR
2016, arXiv:1511.04599, algorithm 2, and its section on other norms: w_k = grad(f_k - f_label), q the dual norm;
the class of least |f_k - f_label| / |w_k|_q is stepped to. The sum of steps is scaled by 1 + overshoot at the end, here
after each step, as the authors' code does.

Beyond the paper: a whole batch, of which samples leave once they are fooled; the box [0, 1], where components that
could only leave it do not count in w_k; and fewer gradients: rivals are taken by their gap; one is passed over when it
lies farther than the nearest found so far even with a gradient SLACK times as long as any seen for that sample.
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
    check_norm,
    check_number,
    checked,
    fooled,
    gradient,
    lengths,
    over,
    remaining,
)
from visus.core.validate import positive

SLACK = 4.0
LEAST = {"l2": 1e-4, "linf": 1e-5}  # added to every step: at the boundary itself a step would be nothing
DUAL = {"l2": "l2", "linf": "l1"}


@dataclass(frozen=True)
class Boundary:
    """Of each sample, the nearest boundary of the linearised classifier. logits: [B, K]. distance: [B], to it.
    normal: [B, C, H, W], the gradient of rival less label where the box lets it be followed. rival: int64 [B].
    asked: int64 [B], how often the classifier was shown the sample."""

    logits: Tensor
    distance: Tensor
    normal: Tensor
    rival: Tensor
    asked: Tensor


def nearest_boundary(classifier: Classifier, images: Tensor, labels: Tensor, norm: str, candidates: int) -> Boundary:
    """candidates: how many classes beside the label are looked at, those of the smallest gaps."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(leaf)
    values = logits.detach()
    own = values.gather(1, labels[:, None])
    gaps = (own - values).abs().scatter(1, labels[:, None], float("inf"))
    gaps, order = gaps.topk(min(candidates, values.shape[1] - 1), largest=False)
    best = torch.full_like(own[:, 0], float("inf"))
    normal, rival = torch.zeros_like(images), order[:, 0].clone()
    longest = torch.zeros_like(best)
    asked = torch.ones_like(labels)
    for place in range(order.shape[1]):
        near = gaps[:, place] <= best * longest * SLACK if place else torch.ones_like(best, dtype=torch.bool)
        count = int(near.sum())
        if not count:
            continue
        chosen = order[near, place]
        rows = near.nonzero()[:, 0]
        if 2 * count > len(images):  # one backward pass for all costs less than asking anew about some
            with torch.enable_grad():
                lead = (logits[rows, chosen] - logits[rows, labels[rows]]).sum()
            (slope,) = torch.autograd.grad(lead, leaf, retain_graph=True)
            slope = slope[rows]
        else:
            _, slope = gradient(classifier, images[rows], _lead(chosen, labels[rows]))
            asked[rows] += 1
        part = images[rows]
        slope = slope.masked_fill(((part <= 0) & (slope < 0)) | ((part >= 1) & (slope > 0)), 0.0)
        length = lengths(slope, DUAL[norm])
        longest[rows] = torch.maximum(longest[rows], length)
        distance = torch.where(length > 0, gaps[rows, place] / length.clamp(min=1e-30), float("inf"))
        closer = distance < best[rows]
        rows = rows[closer]
        best[rows], normal[rows], rival[rows] = distance[closer], slope[closer], chosen[closer]
    return Boundary(values, best, normal, rival, asked)


def _lead(rivals: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Logits -> [B], that of the rival less that of the label."""
    return lambda z: (z.gather(1, rivals[:, None]) - z.gather(1, labels[:, None]))[:, 0]


def deepfool(classifier: Classifier, ledger: Ledger, labels: Tensor, *, norm: str, steps: int, overshoot: float,
             candidates: int) -> None:
    """Moves every sample of the ledger from its original and writes what came of it."""
    rows, origin, moved = ledger.rows, ledger.originals, ledger.originals
    total = torch.zeros_like(origin)
    for number in range(steps):
        if number:  # most are fooled by now: a look without gradients lets them leave
            with torch.no_grad():
                gone = fooled(classifier(moved), labels)
            ledger.asked(rows)
            ledger.done(rows[gone], moved[gone], True)
            rows, origin, moved, labels, total = remaining(~gone, rows, origin, moved, labels, total)
            if not len(rows):
                return
        found = nearest_boundary(classifier, moved, labels, norm, candidates)
        ledger.asked(rows, found.asked)
        distance = found.distance.where(found.distance.isfinite(), 0.0) + LEAST[norm]
        if norm == "l2":
            step = found.normal * over(distance / lengths(found.normal, "l2").clamp(min=1e-30), origin)
        else:
            step = found.normal.sign() * over(distance, origin)
        if not number:
            gone = fooled(found.logits, labels)
            ledger.done(rows[gone], moved[gone], True)
            rows, origin, moved, labels, total, step = remaining(~gone, rows, origin, moved, labels, total, step)
        total = total + step
        moved = (origin + (1 + overshoot) * total).clamp(0, 1)
        ledger.moved(rows)
        if not len(rows):
            return
    with torch.no_grad():
        ledger.done(rows, moved, fooled(classifier(moved), labels))
    ledger.asked(rows)


@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """norm: l2 or linf. steps: at most. overshoot: the share by which the boundary is passed. candidates: rivals that
    are looked at, those of the largest logits."""

    norm: Norm = "l2"
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 9
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_norm(self.norm, ("l2", "linf"))
        positive(steps=self.steps, candidates=self.candidates)
        check_number(0, overshoot=self.overshoot)

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger = Ledger(images)
        if len(images):
            deepfool(classifier, ledger, labels, norm=self.norm, steps=self.steps, overshoot=self.overshoot,
                     candidates=self.candidates)
        return ledger.result()


attack.add(DeepFool, {"deepfool": {}}, summary="shortest steps to the nearest boundary of the linearised net",
           paper="Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, arXiv:1511.04599")
