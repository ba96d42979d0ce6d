"""AutoAttack, the standard ensemble: APGD on cross-entropy, APGD-T on targeted DLR, FAB-T and Square, in this order.

Paper: Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
ICML 2020, arXiv:2003.01690, section 4. An attack sees only the samples that those before it left standing, so that the
accuracy that remains is that under the worst of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from visus import attack
from visus.attack.apgd import APGD
from visus.attack.attack import (
    USUAL_EPS,
    Attack,
    Attacked,
    Classifier,
    Ledger,
    Norm,
    Sees,
    check_eps,
    check_norm,
    checked,
    remaining,
    seeded,
)
from visus.attack.fab import FAB
from visus.attack.square import Square
from visus.core.validate import positive


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """norm: linf or l2. eps: the radius; None is 8/255 or 0.5. steps: of a climb of APGD and of FAB. classes: which
    APGD-T and FAB-T aim at in turn. queries: of Square. The paper's numbers are the defaults."""

    norm: Norm = "linf"
    eps: float | None = None
    steps: int = 100
    classes: int = 9
    queries: int = 5000
    sees: ClassVar[Sees] = "gradients"
    targeted: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2"))
        positive(steps=self.steps, classes=self.classes, queries=self.queries)
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]

    def ensemble(self) -> tuple[tuple[str, Attack], ...]:
        """(name, attack) in the order in which they are tried."""
        return (("apgd", APGD(norm=self.norm, eps=self.eps, steps=self.steps)),
                ("apgd_t", APGD(norm=self.norm, eps=self.eps, steps=self.steps, loss="dlr_targeted",
                                classes=self.classes)),
                ("fab", FAB(norm=self.norm, eps=self.eps, steps=self.steps, classes=self.classes)),
                ("square", Square(norm=self.norm, eps=self.eps, queries=self.queries)))

    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        ledger, generator = Ledger(images), seeded(generator)
        for _, part in self.ensemble():
            rows, own = remaining(~ledger.success, ledger.rows, labels)
            if not len(rows):
                break
            found = part(classifier, ledger.originals[rows], own, generator=generator)
            ledger.asked(rows, found.queries)
            ledger.moved(rows, found.steps)
            ledger.done(rows, found.images, found.success)
        return ledger.result()


attack.add(AutoAttack, {"auto_attack": {}}, summary="APGD, APGD-T, FAB-T and Square, each on what the others left",
           paper="Croce, Hein, ICML 2020, arXiv:2003.01690")
