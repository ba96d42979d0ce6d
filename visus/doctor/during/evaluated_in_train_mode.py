"""The model is evaluated while it is in train mode.

Dropout then drops units of the evaluation, and batch norm normalises by the batch at hand and moves its running
averages: the figures are wrong, they depend on the batch size, and validation data leak into the model.
Source: PyTorch's notes on `Module.eval`; reliability.md D10; Karpathy 2019.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class EvaluatedInTrainMode:
    when = "event"

    def __init__(self) -> None:
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        passes = int(facts.get("evaluated_in_train_mode", 0))
        if self.told or passes < limit("evaluated-in-train-mode.passes"):
            return
        self.told = True
        kinds = Counter(str(name) for name in facts.get("layers", ()))
        yield Finding("evaluated-in-train-mode", "error", "The model is evaluated in train mode",
                      f"{passes} forward passes without gradient after step {look.step}, while "
                      + ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + " were in train mode",
                      "Call model.eval() before the evaluation and model.train() after it", step=look.step)


add(EvaluatedInTrainMode, "evaluated-in-train-mode", stage="during", rank=1, cost="nothing: two flags",
    rule="no two forward passes without gradient in a row while batch norm or dropout is in train mode",
    course="C2.3, C6.1")
