"""Tanh or sigmoid units that sit at the ends of their range, where the gradient is nearly zero.

Weights or inputs that are too large push them there. Only units that feed a further layer count: a gate or a last
sigmoid may well be sure of itself.
Source: CS231n, neural networks 1; Glorot & Bengio 2010; reliability.md D5b.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

LOOKS = 3


class SaturatedWhileTraining:
    when = "full"

    def __init__(self) -> None:
        self.row: dict[str, list[float]] = {}
        self.told = ""

    def __call__(self, look: Look) -> Iterator[Finding]:
        if self.told == "error":
            return
        for name, layer in look.layers.items():
            if layer.saturated is None:
                continue
            row = self.row.setdefault(name, [])
            row.append(layer.saturated)
            del row[:-LOOKS]
            for severity in ("error", "warning"):
                bound = limit(f"saturated-while-training.{severity}")
                if len(row) == LOOKS and min(row) > bound and not (severity == "warning" and self.told):
                    self.told = severity
                    yield Finding("saturated-while-training", "error" if severity == "error" else "warning",
                                  f"{100 * row[-1]:.0f} % of the outputs of {name} are saturated",
                                  f"beyond 0.97 of the range in {LOOKS} looks up to step {look.step} (bound "
                                  f"{100 * bound:g} %)",
                                  "Initialise smaller (Xavier), scale the inputs to mean 0 and std 1, put batch norm "
                                  "before the activation, or use ReLU or GELU; lower the learning "
                                  "rate", step=look.step, layer=name)
                    return


add(SaturatedWhileTraining, "saturated-while-training", stage="during", rank=2, cost="16 samples at a full look",
    rule="at most 50 % (error: 80 %) of a hidden layer's tanh or sigmoid outputs lie in the last 3 % of the range",
    course="18.09, C4.7")
