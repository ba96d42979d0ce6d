"""The fast gradient sign method and its iterated forms.

Papers: FGSM: Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, arXiv:1412.6572,
section 4: x + eps sign(grad L). BIM (basic iterative method) and the least-likely class: Kurakin, Goodfellow, Bengio,
Adversarial Examples in the Physical World, ICLR workshop 2017, arXiv:1607.02533, sections 2.2 and 2.3. MI-FGSM: Dong,
Liao, Pang, Su, Zhu, Hu, Li, Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv:1710.06081, algorithm 1.

For l2 and l1 the sign is replaced by the steepest step of that norm. The iterated ones are PGD without a random start;
samples that a step has fooled leave the batch (`early_stop`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
    steepest,
)
from visus.attack.pgd import Climb, climb
from visus.core.validate import boolean, natural, require


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """norm: linf, l2 or l1. eps: the length of the one step; None is 8/255, 0.5 or 12. sparsity: for l1, the share of
    components that the step moves. Samples that are answered wrongly already are moved like all others."""

    norm: Norm = "linf"
    eps: float | None = None
    sparsity: float = 0.05
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2", "l1"))
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]
        require(0 < self.sparsity <= 1, "sparsity", self.sparsity, "lie in (0, 1]")

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        assert self.eps is not None
        ledger = Ledger(images)
        if len(images):
            _, slope = gradient(classifier, images, cross_entropy(labels, targets))
            moved = (images + self.eps * steepest(slope, self.norm, self.sparsity)).clamp_(0, 1)
            with torch.no_grad():
                won = fooled(classifier(moved), labels, targets)
            ledger.asked(ledger.rows, 2)
            ledger.moved(ledger.rows)
            ledger.done(ledger.rows, moved, won)
        return ledger.result()


@dataclass(frozen=True, kw_only=True)
class Iterated:
    """norm, eps: as FGSM. steps; step_size: None is eps / steps. momentum: None for plain gradients, else the decay of
    MI-FGSM (1 in the paper). least_likely: climb to the class of the smallest logit instead of away from the label;
    success is still any other answer than the label. early_stop: as PGD."""

    norm: Norm = "linf"
    eps: float | None = None
    steps: int = 10
    step_size: float | None = None
    momentum: float | None = None
    least_likely: bool = False
    early_stop: bool = True
    sees: ClassVar[Sees] = "gradients"
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2", "l1"))
        natural(steps=self.steps)
        boolean(least_likely=self.least_likely, early_stop=self.early_stop)
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]
        if self.step_size is not None:
            check_number(0, step_size=self.step_size)
        if self.momentum is not None:
            check_number(0, momentum=self.momentum)

    @property
    def targeted(self) -> bool:
        return not self.least_likely

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        assert self.eps is not None
        ledger = Ledger(images)
        if len(images):
            aim = None
            if self.least_likely:
                with torch.no_grad():
                    aim = classifier(images).argmin(1)
                ledger.asked(ledger.rows)
            step = self.eps / max(self.steps, 1) if self.step_size is None else self.step_size
            climb(classifier, ledger, ledger.rows, ledger.originals, labels, targets,
                  Climb(norm=self.norm, eps=self.eps, step_size=step, steps=self.steps, early_stop=self.early_stop,
                        momentum=self.momentum), aim=aim)
        return ledger.result()


attack.add(FGSM, {"fgsm": {}}, summary="one step of length eps along the sign of the gradient",
           paper="Goodfellow, Shlens, Szegedy, ICLR 2015, arXiv:1412.6572")
attack.add(Iterated, {"bim": {}, "bim_least_likely": {"least_likely": True}},
           summary="small gradient-sign steps, away from the label or to the least likely class",
           paper="Kurakin, Goodfellow, Bengio, ICLR workshop 2017, arXiv:1607.02533")
attack.add(Iterated, {"mi_fgsm": {"momentum": 1.0}}, summary="gradient-sign steps with momentum; its examples transfer",
           paper="Dong, Liao, Pang, Su, Zhu, Hu, Li, CVPR 2018, arXiv:1710.06081")
