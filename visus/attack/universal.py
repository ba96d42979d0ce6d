"""One perturbation for all images.

Papers: Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, Universal Adversarial Perturbations, CVPR 2017, arXiv:1610.08401,
algorithm 1 (rule deepfool): image after image that v does not fool yet, the shortest step that makes it do so is added
and v is put back into the ball. Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, Universal Adversarial Training, AAAI
2020, arXiv:1811.11304, algorithm 2 (rule gradient, the default): v climbs the mean loss of small batches, each sample's
loss cut off at `ceiling` so that the fooled ones do not lead.

In rule deepfool `block` images are taken at once and the mean of their steps is added; 1 is the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

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
    fooled,
    gradient,
    project,
    seeded,
    steepest,
)
from visus.attack.deepfool import deepfool
from visus.core.validate import one_of, positive

Rule = Literal["gradient", "deepfool"]


def universal_perturbation(classifier: Classifier, images: Tensor, labels: Tensor, *, eps: float, norm: str = "linf",
                           rule: Rule = "gradient", passes: int = 10, block: int = 32, ceiling: float = 9.0,
                           aim: float = 0.98, generator: Generator | None = None) -> Tensor:
    """[C, H, W] within eps in `norm`; images + it, cut to [0, 1], fool the classifier as often as was found.

    It ends after `passes` over the images or once the share `aim` of them is fooled. The best of all passes is kept.
    """
    generator = seeded(generator)
    move = torch.zeros_like(images[0])
    best, most = move, -1.0
    for number in range(passes):
        for rows in torch.randperm(len(images), generator=generator).to(images.device).split(block):
            x, y = (images[rows] + move).clamp(0, 1), labels[rows]
            if rule == "gradient":
                _, slope = gradient(classifier, x, lambda z, y=y: F.cross_entropy(  # type: ignore[misc]
                    z, y, reduction="none").clamp(max=ceiling))
                length = 2.5 * eps / passes * (1 - number / passes)
                step = length * steepest(slope.sum(0, keepdim=True), norm)[0]
            else:
                ledger = Ledger(x)
                deepfool(classifier, ledger, y, norm="linf" if norm == "linf" else "l2", steps=20, overshoot=0.02,
                         candidates=9)
                still = ledger.steps > 0
                step = (ledger.images - x)[still].mean(0) if still.any() else torch.zeros_like(move)
            move = project((move + step)[None], eps, norm)[0]
        with torch.no_grad():
            turned = sum(int(fooled(classifier((x + move).clamp(0, 1)), y).sum())
                         for x, y in zip(images.split(128), labels.split(128), strict=True)) / len(images)
        if turned > most:
            best, most = move, turned
        if turned >= aim:
            break
    return best


@dataclass(frozen=True, kw_only=True)
class Universal:
    """norm: linf or l2. eps: the radius; None is 8/255 or 0.5. rule: gradient or deepfool. passes: over the images.
    block: images at once. The perturbation is found on the images of the batch and tried on them; give a whole set at
    once (a large batch size)."""

    norm: Norm = "linf"
    eps: float | None = None
    rule: Rule = "gradient"
    passes: int = 10
    block: int = 32
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2"))
        positive(passes=self.passes, block=self.block)
        one_of(("gradient", "deepfool"), rule=self.rule)
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger = Ledger(images)
        if not len(images):
            return ledger.result()
        assert self.eps is not None
        asked = 0

        def counting(batch: Tensor) -> Tensor:
            nonlocal asked
            asked += len(batch)
            return classifier(batch)

        move = universal_perturbation(counting, images, labels, eps=self.eps, norm=self.norm, rule=self.rule,
                                      passes=self.passes, block=self.block, generator=generator)
        moved = (images + move).clamp(0, 1)
        with torch.no_grad():
            ledger.done(ledger.rows, moved, fooled(counting(moved), labels))
        ledger.moved(ledger.rows)
        ledger.asked(ledger.rows, -(-asked // len(images)))
        return ledger.result()


attack.add(Universal, {"universal": {}}, summary="one perturbation for all images of a batch",
           paper="Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, CVPR 2017, arXiv:1610.08401; Shafahi et al., AAAI 2020")
