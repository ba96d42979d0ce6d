"""The validation loss jumps up and down from one evaluation to the next: what is kept is a matter of luck.

Why: a batch too small or a rate too high leaves the weights wandering; batch normalisation with small batches has
running statistics that lag behind. The jitter of single training losses is only a matter of the batch's size: a note,
and only where it hides the whole course.
Source: Stanford CS231n notes 3: the wiggle belongs to the batch size, EECS498 lecture 11.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import column, curve_of, jitter, step_of
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def noisy_curve(history: History) -> Iterator[Finding]:
    yield from _validation(history)
    curve = curve_of(history)
    if curve is None or curve.updates < limit("noisy-curve.updates"):
        return
    fall = abs(curve.start - curve.end)
    if curve.noise > limit("noisy-curve.of-fall") * fall and curve.fall > limit("noisy-curve.fall"):
        yield Finding(
            "noisy-curve", "note", "Single batches jitter more than the loss falls",
            f"standard deviation {curve.noise:.3g} around the trend, fall {fall:.3g} from {curve.start:.4g}",
            "A larger --batch-size, or --set train.accumulate=4.", step=curve.updates)


def _validation(history: History) -> Iterator[Finding]:
    held = column(history, "val_loss")
    rows = np.flatnonzero(np.isfinite(held))
    if len(rows) < limit("noisy-curve.evaluations"):
        return
    late = rows[len(rows) // 3:]
    values = held[late]
    middle, wander = float(np.median(values)), jitter(values)
    best = float(held[rows].min())
    if wander <= limit("noisy-curve.validation") * middle or middle < limit("noisy-curve.level") * held[rows[0]] \
            or float(values.mean()) < limit("noisy-curve.above-best") * best:
        return
    yield Finding(
        "noisy-curve", "warning", "Validation loss jumps from one evaluation to the next",
        f"it wanders by {wander:.3g} around {middle:.4g} ({100 * wander / middle:.0f} %, bound "
        f"{100 * limit('noisy-curve.validation'):g} %); best {best:.4g}",
        "A lower learning rate at the end (a cosine schedule), a larger batch, averaged weights "
        "(--set train.ema=0.999).", step=step_of(history, int(late[int(np.argmax(values))])))


doctor.add(noisy_curve, "noisy-curve", stage="after", rank=7, symptom=True,
           rule="Over the last two thirds the validation loss wanders by more than 30 % of its median between "
                "evaluations", cost="reads the log", course="18.06, C4.7, C6.3")
