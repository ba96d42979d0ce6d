"""The loss is NaN or infinite: from here on nothing is learnt.

One such step makes every weight NaN. The finding comes with the step, the rate and whether the weights were lost.
Source: reliability.md R7; CS231n, neural networks 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look


class FiniteLoss:
    def __init__(self) -> None:
        self.last: float | None = None
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        if look.loss is None or self.told:
            return
        if math.isfinite(look.loss):
            self.last = look.loss
            return
        self.told = True
        layer = str(look.facts.get("not_finite") or "").removesuffix(".weight") or None
        before = "it was never finite" if self.last is None else f"the last finite one was {self.last:.4g}"
        yield Finding("finite-loss", "error", f"The loss is {look.loss} at step {look.step}",
                      f"{before}; learning rate {look.lr}; gradient norm {look.gradient_norm}"
                      + (f"; the first gradient that is not finite: {layer}" if layer else ""),
                      "Look for log(0), a root or a division of 0 in the loss, and for NaN in the inputs; otherwise "
                      "lower the learning rate, clip the gradient, or train in fp32", step=look.step, layer=layer)


add(FiniteLoss, "finite-loss", stage="during", rank=5, symptom=True, cost="the loss of each step",
    rule="the loss is a finite number at every step", course="18.13, C2.3")
