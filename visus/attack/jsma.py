"""JSMA: two components at a time, those that the Jacobian says lead to the target.

Paper: Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, The Limitations of Deep Learning in Adversarial Settings,
EuroS&P 2016, arXiv:1511.07528, equations 8 and 9 and algorithms 2 and 3. With a the gradient of the target's logit and
b that of the sum of the others, the pair (p, q) of largest -(a_p + a_q)(b_p + b_q) with a_p + a_q > 0 > b_p + b_q moves
by theta each; theta below zero darkens, and the signs turn.

Two gradients serve where a Jacobian has one for each class. All pairs are judged without being listed: a component that
two others beat in both a and -b is in no best pair, and the few that are left are found by sorting. Without a target
the runner-up of each image is the target, and any wrong answer is success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.attack import Attacked, Classifier, Ledger, Norm, Sees, checked, fooled, remaining
from visus.core.validate import require


def best_pair(first: Tensor, second: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The pair of components with the largest product of (first_p + first_q) and (second_p + second_q), both sums above
    zero, of those that are free. first, second: [B, D]; free: bool [B, D]. Gives (int64 [B, 2], whether there is one).
    """
    low = torch.finfo(first.dtype).min / 4
    first, order = first.masked_fill(~free, low).sort(dim=1, descending=True, stable=True)
    second = second.masked_fill(~free, low).gather(1, order)
    top = second.cummax(1).values  # the largest so far, and below the second largest so far
    before = torch.cat([torch.full_like(top[:, :1], low), top[:, :-1]], 1)
    next_to_top = torch.minimum(second, before).cummax(1).values
    before = torch.cat([torch.full_like(top[:, :1], low), next_to_top[:, :-1]], 1)
    front = second > before  # at most one component beats it in both
    count = max(2, int(front.sum(1).max()))
    places = front.to(torch.uint8).topk(count, dim=1).indices
    a, b = first.gather(1, places), second.gather(1, places)
    usable = (front & free.gather(1, order)).gather(1, places)
    sums_a, sums_b = a[:, :, None] + a[:, None, :], b[:, :, None] + b[:, None, :]
    allowed = usable[:, :, None] & usable[:, None, :] & (sums_a > 0) & (sums_b > 0)
    allowed &= ~torch.eye(count, dtype=torch.bool, device=a.device)
    score = torch.where(allowed, sums_a * sums_b, -1.0).flatten(1)
    value, best = score.max(1)
    pair = torch.stack([best // count, best % count], 1)
    return order.gather(1, places.gather(1, pair)), value >= 0


@dataclass(frozen=True, kw_only=True)
class JSMA:
    """theta: by how much a component moves, in [-1, 1]. share: gamma of the paper, the largest share of components that
    may be moved; each is moved once."""

    theta: float = 1.0
    share: float = 0.1
    sees: ClassVar[Sees] = "gradients"
    norm: ClassVar[Norm] = "l0"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(isinstance(self.theta, int | float) and -1 <= self.theta <= 1 and self.theta != 0, "theta", self.theta,
                "lie in [-1, 1] and not be 0")
        require(isinstance(self.share, int | float) and 0 < self.share <= 1, "share", self.share, "lie in (0, 1]")

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger = Ledger(images)
        if not len(images):
            return ledger.result()
        rows, moved, aim = ledger.rows, ledger.originals.clone(), targets
        free = (moved < 1 if self.theta > 0 else moved > 0).flatten(1)
        sign = 1.0 if self.theta > 0 else -1.0
        for _ in range(-(-int(self.share * free.shape[1]) // 2)):
            leaf = moved.detach().requires_grad_()
            with torch.enable_grad():
                logits = classifier(leaf)
            values = logits.detach()
            ledger.asked(rows)
            if aim is None:
                aim = values.scatter(1, labels[:, None], float("-inf")).argmax(1)
            toward, = torch.autograd.grad(logits.gather(1, aim[:, None]).sum(), leaf, retain_graph=True)
            total, = torch.autograd.grad(logits.sum(), leaf)
            gone = fooled(values, labels, targets)
            pair, there = best_pair(sign * toward.flatten(1), sign * (toward - total).flatten(1), free)
            ledger.done(rows[gone], moved[gone], True)
            stuck = ~gone & ~there
            ledger.done(rows[stuck], moved[stuck], False)
            rows, moved, labels, targets, aim, free, pair = remaining(
                ~gone & there, rows, moved, labels, targets, aim, free, pair)
            if not len(rows):
                return ledger.result()
            flat = moved.flatten(1)
            step = torch.full_like(pair, self.theta, dtype=flat.dtype)
            moved = flat.scatter_add(1, pair, step).clamp(0, 1).view_as(moved)
            free = free.scatter(1, pair, False)
            ledger.moved(rows)
        with torch.no_grad():
            ledger.done(rows, moved, fooled(classifier(moved), labels, targets))
        ledger.asked(rows)
        return ledger.result()


attack.add(JSMA, {"jsma": {}}, summary="pairs of components that the Jacobian says lead to the target",
           paper="Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, EuroS&P 2016, arXiv:1511.07528")
