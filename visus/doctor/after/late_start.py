"""The loss is flat for a good part of the training and then drops: the weights began in a bad place.

Why: the gradient at the start was close to nothing (saturated or nearly dead units, all weights alike or far too small)
until chance found the way out. Updates of a warm-up do not count.
Source: EECS498 lecture 11, Stanford CS231n lecture 7: "bad initialization a prime suspect".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import curve_of
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def late_start(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None or curve.start <= 0 or curve.fall < limit("late-start.fall"):
        return
    steps, medians = curve.places(min(50, max(10, len(curve.losses) // 5)))
    lost = (curve.start - medians) / (curve.start - curve.end)
    begun, half = int(np.argmax(lost > limit("late-start.begun"))), int(np.argmax(lost > 0.5))
    if begun == 0 or np.abs(lost[:begun]).max() > limit("late-start.flat"):
        return
    warm = _warm_up(history)
    flat = int(steps[begun - 1]) - warm
    share = flat / curve.updates
    sudden = int(steps[half]) - int(steps[begun - 1]) < flat
    if share < limit("late-start.share") or flat < max(limit("late-start.updates"), curve.epoch or 0) or not sudden:
        return
    yield Finding(
        "late-start", "warning", f"The loss stayed flat for {flat} updates before it dropped",
        f"{curve.start:.4g} at the start and {medians[begun - 1]:.4g} at update {steps[begun - 1]}, then half of the "
        f"fall to {curve.end:.4g} by update {steps[half]}; flat for {100 * share:.0f} % of the training (bound "
        f"{100 * limit('late-start.share'):g} %)" + (f", {warm} updates of warm-up aside" if warm else ""),
        "Initialise for the activation (He for ReLU, Glorot for tanh), add normalisation layers or residual "
        "connections, and avoid sigmoids between layers; `visus doctor` measures gradients and activations layer by "
        "layer.", step=int(steps[begun - 1]))


def _warm_up(history: History) -> int:
    """Updates before the rate first reached half of its peak."""
    peak = max(history.lrs, default=0.0)
    if peak <= 0 or len(history.lrs) != len(history.steps):
        return 0
    first = next(k for k, rate in enumerate(history.lrs) if rate >= 0.5 * peak)
    return int(history.steps[first]) if first else 0


doctor.add(late_start, "late-start", stage="after", rank=4,
           rule="The loss is flat for a fifth of the training, 100 updates and an epoch, and then drops",
           cost="reads the log", course="18.06, C4.7, C6.3")
