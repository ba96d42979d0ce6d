"""The optimizer steps before the backward pass, or without one.

Then each update is made with the gradients of the batch before, or with those that `zero_grad` has just cleared. Told
by the output that a backward pass belongs to: it was made before the last update.
Source: CS231n, optimisation 1 (forward, backward, update); the order of PyTorch's tutorial loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

REMEDY = "The order of a step: optimizer.zero_grad(), outputs and loss, loss.backward(), optimizer.step()"


class StepBeforeBackward:
    def __init__(self) -> None:
        self.late = self.none = 0

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        if not facts.get("watched") or facts.get("closure"):
            return
        passes, late = int(facts.get("passes", 0)), int(facts.get("late", 0))
        self.late = self.late + 1 if passes and late == passes else 0
        self.none = self.none + 1 if not passes and facts.get("no_gradients") else 0
        steps = int(limit("step-before-backward.steps"))
        if self.late == steps:
            yield Finding("step-before-backward", "error", "The optimizer steps before the backward pass of the batch",
                          f"at {steps} steps up to step {look.step} every backward pass belonged to an output from "
                          f"before the last update", REMEDY, step=look.step)
        elif self.none == steps and not self.late:
            yield Finding("step-before-backward", "error", "The optimizer steps without a backward pass",
                          f"at {steps} steps up to step {look.step} there was a forward pass, no backward pass through "
                          "its output, and no gradient at all", REMEDY, step=look.step)


add(StepBeforeBackward, "step-before-backward", stage="during", rank=1, cost="nothing: the order of three hooks",
    rule="between the forward pass and the update of a step there is its backward pass", course="18.13, C2.3")
