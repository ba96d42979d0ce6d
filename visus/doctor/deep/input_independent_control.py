"""The same training on inputs that are all the mean image: what it reaches knows only the targets. The real one must be
better on held samples by at least 5 % of the loss.

The smallest loss of each run counts, so a run that overfits later is not punished. What it cannot say: whether the
input is dropped by the model (input-ignored tells that) or says nothing about the targets.

Source: Karpathy's recipe (input-independent baseline); reliability.md C2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.controls import real_run, run, split
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

NAME = "input-independent-control"


def input_independent_control(patient: Patient) -> Iterator[Finding]:
    parts = split(patient)
    if parts is None or not parts.train[0].is_floating_point():
        return
    real = real_run(patient, parts)
    mean = parts.train[0].mean(0, keepdim=True)
    blind = run(patient, (mean.expand_as(parts.train[0]).clone(), parts.train[1]),
                (mean.expand_as(parts.held[0]).clone(), parts.held[1]))
    if not math.isfinite(blind.held_loss) or blind.held_loss <= 0 or math.isinf(real.held_loss):
        return
    gain = 1 - real.held_loss / blind.held_loss
    if gain >= limit("input-independent-control.gain"):
        return
    yield Finding(
        check=NAME, severity="warning", title="The net learns from the inputs no more than it learns without them",
        evidence=f"smallest loss on held samples {real.held_loss:.4g}, with the mean image for every input "
                 f"{blind.held_loss:.4g}: {gain:.1%} better, at least {limit('input-independent-control.gain'):.0%}; "
                 f"{parts}",
        remedy="See whether forward uses its argument and whether inputs and targets belong together; with few samples "
               "ask again with more")


add(input_independent_control, NAME, stage="deep", rank=4,
    rule="The loss on held samples is at least 5 % lower than that of a copy that sees the mean image only",
    cost="two runs of up to 120 steps, one of them shared", course="C6.2")
