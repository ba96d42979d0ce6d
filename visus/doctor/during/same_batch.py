"""Every step sees the same inputs.

`next(iter(loader))` inside the loop starts the loader again at each step, and without shuffling that is one batch for
ever. The same tensor handed over again and again may be meant (gradient descent on the whole set, or an overfitting
test), so that is a note.
Source: Karpathy 2019 (overfit one batch, on purpose only); reliability.md D9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class SameBatch:
    def __init__(self) -> None:
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        kind, count = facts.get("same", ("", 0))
        if self.told or count < limit("same-batch.steps"):
            return
        self.told = True
        if kind == "object":
            yield Finding("same-batch", "note", "Each step is given the same tensor",
                          f"{count + 1} steps in a row, up to step {look.step}, {look.samples} samples",
                          "Right for gradient descent on the whole set; otherwise take a new batch inside the loop",
                          step=look.step)
        else:
            yield Finding("same-batch", "error", "Every step trains on the same batch",
                          f"the inputs of {count + 1} steps in a row, up to step {look.step}, are equal in every value "
                          f"looked at, in tensors made anew: {look.samples} samples",
                          "Write `for inputs, targets in loader:`; next(iter(loader)) starts the loader again each "
                          "time. Shuffle: DataLoader(..., shuffle=True)", step=look.step)


add(SameBatch, "same-batch", stage="during", rank=1, cost="256 values of the inputs at each step",
    rule="no six steps in a row have equal inputs", course="18.02, C2.3")
