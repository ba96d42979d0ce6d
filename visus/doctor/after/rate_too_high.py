"""The loss rises, or never falls below where it began: the steps are too long.

Why: beyond twice the inverse of the largest curvature each step of gradient descent lands higher than it left; the loss
grows exponentially until the units die or the numbers end, and what is left stays above the start. Gradient ascent (a
loss with the wrong sign) looks the same.
Only losses that rise well above chance count: the loss of a finetuned net begins near 0, and a first rise is usual
there.
Source: Stanford CS231n notes 3, "loss function": high rates, very high rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import Curve, curve_of, learnt, smoothed
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def rate_too_high(history: History) -> Iterator[Finding]:
    curve = curve_of(history) or _short(history)
    if curve is None or curve.start <= 0 or learnt(history):
        return
    first = min(float(curve.losses[0]), curve.start)
    chance = math.log(history.classes) if history.classes and history.classes > 1 else 0.0
    floor = max(first, chance)
    mean = smoothed(curve.losses, limit("rate-too-high.smoothing"))
    above = np.flatnonzero(mean > limit("rate-too-high.rise") * floor)
    if len(above) and curve.end > limit("rate-too-high.recovered") * first:
        at = int(curve.steps[above[0]])
        yield _finding(history, "The loss rose to a multiple of its start and did not come back",
                       f"{floor:.4g} at the start, {mean.max():.4g} at its highest (bound "
                       f"{limit('rate-too-high.rise'):g} times), {curve.end:.4g} at the end; above the bound from "
                       f"update {at} on", at)
        return
    if curve.updates < limit("rate-too-high.updates") or len(curve.losses) < limit("rate-too-high.updates"):
        return
    rest = curve.places(10)[1][1:]
    if float(rest.min()) > limit("rate-too-high.never-below") * floor:
        yield _finding(history, "The loss never fell below its start",
                       f"{floor:.4g} at the start, {rest.min():.4g} in the best tenth of {curve.updates} updates, "
                       f"{curve.end:.4g} at the end", int(curve.steps[0]))
        return
    swing = _swing(curve)
    if swing > limit("rate-too-high.swing") and curve.end > limit("rate-too-high.swing-level") * floor:
        yield _finding(history, "The loss swings wildly and does not settle",
                       f"a tenth of the last losses lies {swing:.1f} times above their median {curve.end:.4g} (bound "
                       f"{limit('rate-too-high.swing'):g}); start {floor:.4g}", curve.updates)


def _finding(history: History, title: str, evidence: str, step: int) -> Finding:
    rate = max(history.lrs, default=0.0)
    return Finding("rate-too-high", "error", title, evidence + (f"; peak rate {rate:.3g}" if rate else ""),
                   f"Divide the learning rate by 10{f' (to {rate / 10:.1g})' if rate else ''}, or let it warm up; "
                   "see that the loss is minimised and has the right sign.", step=step)


def _swing(curve: Curve) -> float:
    """How far the ninth decile of the last third lies above its median, in medians."""
    late = curve.losses[-max(10, len(curve.losses) // 3):]
    middle = float(np.median(late))
    return float(np.quantile(late, 0.9)) / middle if middle > 0 else 0.0


def _short(history: History) -> Curve | None:
    """A curve that ended after a few updates, as one that explodes does."""
    losses = np.array([loss for loss in history.losses if math.isfinite(loss)], dtype=np.float64)
    if history.finished or len(losses) < 2:
        return None
    steps = np.array([s for s, loss in zip(history.steps, history.losses, strict=True) if math.isfinite(loss)])
    return Curve(steps, losses, steps / steps[-1], float(losses[0]), float(losses[-1]), 0.0, None)


doctor.add(rate_too_high, "rate-too-high", stage="after", rank=2,
           rule="The smoothed loss rises above 3 times its start and stays above it, or no tenth of the training lies "
                "below the start", cost="reads the log", course="18.06, C4.7, C6.3")
