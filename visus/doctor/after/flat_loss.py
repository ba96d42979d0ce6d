"""The loss is at its end what it was at its start: nothing was learnt.

Why: a flat curve has many causes: a learning rate far too small, no gradient (a detached tensor, dead units, parameters
that the optimizer does not have), labels that do not belong to the inputs. The checks before a training tell which.
One epoch and 100 updates must have passed: with many classes the first updates move the loss by less than a percent.
Source: Stanford CS231n notes 3, "loss function"; EECS498 lecture 11.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import curve_of, learnt
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def flat_loss(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None or curve.start <= 0 or learnt(history):
        return
    needed = max(limit("flat-loss.updates"), curve.epoch or limit("flat-loss.updates-unknown-epoch"))
    chance = math.log(history.classes) if history.classes and history.classes > 1 else None
    if curve.updates < needed or (chance is not None and curve.end < limit("flat-loss.chance") * chance):
        return
    kept = curve.end / curve.start
    low = float(min(curve.places(10)[1])) / curve.start
    if not limit("flat-loss.kept") < min(kept, low) or kept > limit("rate-too-high.never-below"):
        return
    yield Finding(
        "flat-loss", "error", "The loss did not fall: nothing was learnt",
        f"first losses {curve.start:.4g}, last tenth {curve.end:.4g} after {curve.updates} updates: "
        f"{100 * kept:.1f} % is left, above {100 * limit('flat-loss.kept'):g} %"
        + (f"; guessing gives ln {history.classes} = {chance:.3f}" if chance is not None else ""),
        "Ask the checks before training (visus doctor): they tell a gradient that does not arrive, parameters that the "
        "optimizer lacks and labels that do not fit. If they find nothing, raise the learning rate tenfold.",
        step=curve.updates)


doctor.add(flat_loss, "flat-loss", stage="after", rank=8, symptom=True,
           rule="After one epoch and 100 updates the loss is still above 97 % of where it began",
           cost="reads the log", course="18.06, C4.7, C6.3")
