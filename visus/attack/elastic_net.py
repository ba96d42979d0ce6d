"""EAD: the elastic-net attack, which leaves few components changed.

Paper: Chen, Sharma, Zhang, Yi, Hsieh, EAD: Elastic-Net Attacks to Deep Neural Networks via Adversarial Examples, AAAI
2018, arXiv:1709.04114, equation 7 and algorithm 1: minimise c f(x') + beta |x' - x|_1 + |x' - x|^2 by iterated
shrinkage and thresholding with momentum (FISTA), f and the search for c as Carlini and Wagner's. The best of all
iterates is kept by its elastic-net or its l1 distance (`decision`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.attack import Attacked, Classifier, Ledger, Norm, Sees, check_number, checked, lengths, remaining
from visus.attack.carlini_wagner import hinge, over_constants, patience
from visus.core.validate import boolean, one_of, positive, require


def shrunk(images: Tensor, origin: Tensor, beta: float) -> Tensor:
    """Equation 8 of the paper: towards the original by beta, to it within beta, and into the box."""
    away = images - origin
    return (origin + away.sign() * (away.abs() - beta).clamp(min=0)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class ElasticNet:
    """beta: weight of the l1 length. decision: en (elastic net) or l1, by which the best iterate is chosen. Others as
    those of `carlini_wagner`; step_size is the first, it falls with the square root of the steps left."""

    beta: float = 0.01
    decision: Literal["en", "l1"] = "en"
    confidence: float = 0.0
    searches: int = 9
    steps: int = 100
    step_size: float = 0.01
    initial_constant: float = 0.01
    abort_early: bool = True
    sees: ClassVar[Sees] = "gradients"
    norm: ClassVar[Norm] = "l1"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(searches=self.searches, steps=self.steps)
        boolean(abort_early=self.abort_early)
        one_of(("en", "l1"), decision=self.decision)
        check_number(0, beta=self.beta, confidence=self.confidence, step_size=self.step_size)
        require(self.initial_constant > 0, "initial_constant", self.initial_constant, "be above 0")

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        return over_constants(images, self.searches, self.initial_constant,
                              lambda ledger, constants, best: self._search(classifier, ledger, labels, targets,
                                                                           constants, best))

    def _search(self, classifier: Classifier, ledger: Ledger, labels: Tensor, targets: Tensor | None,
                constants: Tensor, best: Tensor) -> Tensor:
        """FISTA with these constants; as `CarliniWagner._search`."""
        rows, origin, now, ahead = ledger.rows, ledger.originals, ledger.originals, ledger.originals
        found = torch.zeros_like(ledger.success)
        least, since = torch.full_like(best, float("inf")), torch.zeros_like(rows)
        for step in range(self.steps):
            leaf = ahead.detach().requires_grad_()
            with torch.enable_grad():
                lack, _ = hinge(classifier(leaf), labels, targets, self.confidence)
                cost = constants * lack + (leaf - origin).flatten(1).square().sum(1)
                (slope,) = torch.autograd.grad(cost.sum(), leaf)
            length = self.step_size * (1 - step / self.steps) ** 0.5
            before, now = now, shrunk(ahead.detach() - length * slope, origin, self.beta)
            ahead = now + step / (step + 3) * (now - before)
            ledger.moved(rows)
            ledger.asked(rows)
            if self.abort_early:
                cost = cost.detach()
                lower = cost <= 0.9999 * least
                least, since = torch.where(lower, cost, least), since.masked_fill(lower, step)
                rows, origin, now, ahead, labels, targets, constants, least, since = remaining(
                    step - since < patience(self.steps), rows, origin, now, ahead, labels, targets, constants, least,
                    since)
                if not len(rows):
                    break
            with torch.no_grad():
                _, won = hinge(classifier(now), labels, targets, self.confidence)
            ledger.asked(rows)
            distance = lengths(now - origin, "l1")
            if self.decision == "en":
                distance = self.beta * distance + (now - origin).flatten(1).square().sum(1)
            closer = won & (distance < best[rows])
            ledger.done(rows[closer], now[closer], True)
            best[rows[closer]] = distance[closer]
            found[rows[won]] = True
        return found


attack.add(ElasticNet, {"ead": {}}, summary="small l1 and l2 lengths together, few components changed",
           paper="Chen, Sharma, Zhang, Yi, Hsieh, AAAI 2018, arXiv:1709.04114")
