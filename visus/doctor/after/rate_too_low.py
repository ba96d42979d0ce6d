"""The loss falls, but in a straight line and little: the steps are too short.

Why: a good rate gives a curve that falls fast and bends; one that is still straight at the end has not begun to bend.
The way is measured in learning rate spent, so that a schedule that ends at 0 does not look like a bend. Validation must
fall as well: a net that learns shuffled labels by heart falls in a straight line too.
Validation, always on the same images, shows a creeping fall that the noise of batches hides.
A note where a curve that bends was still falling when the training ended.
Source: Stanford CS231n notes 3, "loss function": low rates improve linearly; the least rate is the lower end of the
range that its notes search, 10^-6.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import Curve, column, curve_of, last_fall, learnt
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def rate_too_low(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None or curve.start <= 0 or curve.updates < limit("rate-too-low.updates"):
        return
    rate = max(history.lrs, default=0.0)
    if 0 < rate < limit("rate-too-low.rate") and abs(curve.fall) < limit("rate-too-low.fall"):
        yield _finding(f"The learning rate never was above {rate:.1e}, and the loss hardly moved",
                       f"{curve.start:.4g} at the start, {curve.end:.4g} after {curve.updates} updates; searches begin "
                       f"at {limit('rate-too-low.rate'):g}", rate, curve)
        return
    late = second_half(curve)
    slow = curve.fall < limit("rate-too-low.fall") and not learnt(history) and \
        not 0 < len(history.epochs) < limit("rate-too-low.epochs")
    if slow and _creeps(history, curve):
        held = column(history, "val_loss")
        yield _finding("The loss falls all the time, but hardly moves",
                       f"validation {held[0]:.5g} after the first epoch, {held[-1]:.5g} after the last of {len(held)}, "
                       f"falling nearly every time; training {curve.start:.4g}, then {curve.end:.4g} after "
                       f"{curve.updates} updates (a curve that bends has lost more than "
                       f"{100 * limit('rate-too-low.fall'):g} %)", rate, curve)
        return
    if slow and _falls(curve) and limit("rate-too-low.second-half") < late < limit("rate-too-low.bends-down") \
            and _validation_falls(history, curve):
        yield _finding("The loss falls slowly and in a straight line",
                       f"{curve.start:.4g} at the start, {curve.end:.4g} after {curve.updates} updates: "
                       f"{100 * curve.fall:.0f} % gone (a curve that bends has lost more than "
                       f"{100 * limit('rate-too-low.fall'):g} %); {100 * late:.0f} % of the fall came in the second "
                       f"half of the way, as on a straight line", rate, curve)
        return
    last = last_fall(curve)
    far = curve.end > limit("rate-too-low.converged") * curve.start  # near 0 a share of the loss means little
    if history.finished and far and last > limit("rate-too-low.still-falling"):
        yield Finding("rate-too-low", "note", "The loss was still falling when the training ended",
                      f"the last fifth took {100 * last:.0f} % off; {curve.end:.4g} at the end",
                      "Train longer: raise --epochs.", step=curve.updates)


def _finding(title: str, evidence: str, rate: float, curve: Curve) -> Finding:
    return Finding("rate-too-low", "warning", title, evidence,
                   f"Multiply the learning rate by 10{f' (from {rate:.3g} to {10 * rate:.3g})' if rate else ''}; "
                   "the rate range test of `visus doctor` shows where the loss falls fastest.", step=curve.updates)


def second_half(curve: Curve) -> float:
    """Share of the fall that came in the second half of the way: 0.5 on a straight line, 0 on a curve that bends
    early."""
    middle = curve.between(0.45, 0.55)
    fall = curve.start - curve.end
    return (float(np.median(middle)) - curve.end) / fall if fall > 0 and len(middle) >= 3 else 0.0


def _creeps(history: History, curve: Curve) -> bool:
    """Validation, which is always the same images, falls from one evaluation to the next, as much in the second half as
    in the first: the net learns, only slowly."""
    held = column(history, "val_loss")
    held = held[np.isfinite(held)]
    if len(held) < limit("rate-too-low.epochs") or held[0] <= held[-1] or \
            held[0] - held[-1] < limit("rate-too-low.creeping") * (curve.start - curve.end - _unsure(curve)):
        return False
    i, j = np.triu_indices(len(held), 1)
    order = float(np.mean(np.sign(held[i] - held[j])))
    late = (held[len(held) // 2] - held[-1]) / (held[0] - held[-1])
    return order > limit("rate-too-low.order") and \
        limit("rate-too-low.second-half") < float(late) < limit("rate-too-low.bends-down")


def _falls(curve: Curve) -> bool:
    """More than chance makes of the noise of single losses."""
    return curve.start - curve.end > _unsure(curve)


def _unsure(curve: Curve) -> float:
    """How far the mean of the first losses may be off."""
    return limit("rate-too-low.sigmas") * curve.noise / max(3, len(curve.losses) // 50) ** 0.5


def _validation_falls(history: History, curve: Curve) -> bool:
    held = column(history, "val_loss")
    held = held[np.isfinite(held)]
    return len(held) < 2 or held[0] - held[-1] > limit("rate-too-low.validation") * (curve.start - curve.end)


doctor.add(rate_too_low, "rate-too-low", stage="after", rank=4,
           rule="The loss fell by less than 15 %, in a straight line over the learning rate spent",
           cost="reads the log", course="18.06, C4.7, C6.3")
