"""Gradients of the last step are still there when the next backward pass begins: `zero_grad` was forgotten.

Every gradient is then a sum over all batches so far, and the step grows and turns into a momentum without end. Several
backward passes between two steps are no fault: that is accumulation, and there too the first pass must find zeros.
Source: reliability.md R4: no other rule finds it.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class GradientsNotZeroed:
    def __init__(self) -> None:
        self.row = 0

    def __call__(self, look: Look) -> Iterator[Finding]:
        if not look.facts.get("watched"):
            return
        self.row = self.row + 1 if look.facts.get("stale") else 0
        if self.row == int(limit("gradients-not-zeroed.steps")):
            passes = look.facts.get("passes")
            yield Finding("gradients-not-zeroed", "error", "Gradients are not set to zero between two steps",
                          f"at {self.row} steps running, up to step {look.step}, the gradients that the last update "
                          f"was made with were still there when the first of {passes} backward passes began",
                          "Call optimizer.zero_grad() once a step, before loss.backward()", step=look.step)


add(GradientsNotZeroed, "gradients-not-zeroed", stage="during", rank=1, cost="a look at four small tensors",
    rule="when the first backward pass after an update begins, every gradient is zero or None", course="18.13, C2.3")
