"""The loss repeats itself every epoch: the batches come in the same order each time.

Why: without shuffling an epoch goes through the classes, folders or days one after the other, and the loss with it.
Measured as the correlation of the loss, its trend divided out, with itself one epoch later; that half an epoch later
must be low, or it is no period but a slow change.
The last batch of an epoch is left out, as it may be smaller; where it alone stands out a note says so.
Source: reliability.md R8 (autocorrelation at the length of an epoch above 0.5).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import Curve, curve_of
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def sawtooth(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None or not curve.epoch or history.resumed_at:
        return
    gap = int(np.median(np.diff(curve.steps)))
    period = round(curve.epoch / max(gap, 1))
    if abs(period * gap - curve.epoch) > 0.02 * curve.epoch or period < limit("sawtooth.points"):
        return
    losses = _by_place(curve, gap)
    if len(losses) < (limit("sawtooth.epochs") + 1) * period or \
            np.isfinite(losses).mean() < limit("sawtooth.known"):
        return
    rest = _around_trend(losses, period)[period:]  # the first epoch falls too fast to tell
    rest = rest[: len(rest) // period * period].reshape(-1, period)  # [epochs, losses of an epoch]
    yield from _last_batch(curve, rest)
    folded = np.array([_median(column) for column in rest.T[:-1]])
    within = np.diff(rest[:, :-1], axis=1)  # a drop where one epoch ends and the next begins is not among these
    detail = _correlation(within.ravel(), period - 2)
    rest, period = rest[:, :-1].ravel(), period - 1  # the last batch may be smaller than the others
    whole, half = _correlation(rest, period), _correlation(rest, period // 2)
    swing = float(np.quantile(folded, 0.9) - np.quantile(folded, 0.1))
    if whole <= limit("sawtooth.correlation") or half > 0.5 * whole or detail <= limit("sawtooth.detail") or \
            swing <= limit("sawtooth.swing"):
        return
    top, bottom = int(np.argmax(folded)), int(np.argmin(folded))
    yield Finding(
        "sawtooth", "warning", "The loss repeats itself every epoch: the order of the batches is always the same",
        f"correlation {whole:.2f} with itself {curve.epoch} updates later (bound {limit('sawtooth.correlation'):g}), "
        f"{half:.2f} half an epoch later, {detail:.2f} for its changes from one loss to the next; swing "
        f"{100 * swing:.0f} % of the level, highest {100 * top / period:.0f} % into the epoch, "
        f"lowest {100 * bottom / period:.0f} %",
        "Shuffle every epoch: DataLoader(..., shuffle=True); for a stream, a shuffle buffer larger than a class.",
        step=int(curve.steps[period]))


def _last_batch(curve: Curve, rest: np.ndarray) -> Iterator[Finding]:
    """rest [epochs, losses of an epoch]: the last of each epoch far above the others."""
    usual, last = _median(rest[:, :-1]), _median(rest[:, -1])
    if last + 1 > limit("sawtooth.last-batch") * (usual + 1):
        yield Finding(
            "sawtooth", "note", "The last batch of every epoch stands out",
            f"its loss is {(last + 1) / (usual + 1):.1f} times that of the others (bound "
            f"{limit('sawtooth.last-batch'):g}), as where a few images are left over and batch normalisation counts on "
            "them alone", "DataLoader(..., drop_last=True), or a batch size that divides the images.",
            step=curve.epoch)


def _by_place(curve: Curve, gap: int) -> np.ndarray:
    """The losses at every `gap` updates, NaN where none is known: a watcher may have left some out."""
    places = np.rint(curve.steps / gap).astype(np.int64) - 1
    losses = np.full(int(places[-1]) + 1, np.nan)
    losses[places[places >= 0]] = curve.losses[places >= 0]
    return losses


def _around_trend(losses: np.ndarray, period: int) -> np.ndarray:
    """[N]: the loss over its mean of one epoch around it, less 1."""
    known = np.isfinite(losses)
    sums = [np.convolve(np.pad(values, (period // 2, period - 1 - period // 2), mode="edge"), np.ones(period), "valid")
            for values in (np.where(known, losses, 0.0), known.astype(np.float64))]
    return losses / np.maximum(sums[0] / np.maximum(sums[1], 1.0), 1e-12) - 1


def _median(values: np.ndarray) -> float:
    """Of those that are known; 0 for none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


def _correlation(values: np.ndarray, lag: int) -> float:
    """Of the values with those `lag` places later, where both are known."""
    both = np.isfinite(values[:-lag]) & np.isfinite(values[lag:])
    if both.sum() < max(10, lag / 2):
        return 0.0
    first, second = values[:-lag][both], values[lag:][both]
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first ** 2).sum() * (second ** 2).sum()))
    return float((first * second).sum()) / size if size > 0 else 0.0


doctor.add(sawtooth, "sawtooth", stage="after", rank=2,
           rule="The loss correlates by more than 0.5 with itself one epoch later and by less than half of that half "
                "an epoch later", cost="reads the log", course="18.06")
