"""The loss stopped falling long before the end, and far from 0.

Why: the rate is too high to go deeper (drop it), the net or the labels give no more, or the units that would learn are
dead. At a low loss it is only the end of what there was to learn.
The slope is the median of the slopes between all pairs of places (Theil, Sen), which a few spikes do not move.
Source: Stanford CS231n notes 3 and its annealing section; Caruana's and Bottou's practice of dropping at a plateau.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import curve_of, learnt
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def plateau(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None or curve.start <= 0 or curve.updates < limit("plateau.updates"):
        return
    steps, medians = curve.places(20)
    if curve.fall < limit("plateau.fall") or curve.end < limit("plateau.level") * curve.start:
        return
    begun = _begin(medians, curve.noise / max(1, len(curve.losses) // 20) ** 0.5)
    share = 1 - steps[begun] / curve.updates
    if share < limit("plateau.share"):
        return
    rates = np.array(history.lrs or (0.0,))
    at = rates[min(len(rates) - 1, int(np.searchsorted(history.steps, steps[begun])))]
    dropped = rates.max() > 0 and at < limit("plateau.rate") * rates.max()
    good = learnt(history) or dropped
    yield Finding(
        "plateau", "note" if good else "warning",
        f"The loss has not fallen since update {steps[begun]}",
        f"{medians[begun]:.4g} there, {curve.end:.4g} at the end: flat for {100 * share:.0f} % of the training (bound "
        f"{100 * limit('plateau.share'):g} %) at {100 * curve.end / curve.start:.0f} % of the start {curve.start:.4g}"
        + ("; the rate had fallen below a tenth of its peak" if dropped else ""),
        "Drop the learning rate tenfold from there on; if the loss does not move then either, look for wrong labels, "
        "dead units and too small a net.", step=int(steps[begun]))


def _begin(medians: np.ndarray, noise: float) -> int:
    """The first place from which on the slope to the end is nothing."""
    for first in range(len(medians) - 4):
        rest = medians[first:]
        i, j = np.triu_indices(len(rest), 1)
        slope = float(np.median((rest[j] - rest[i]) / (j - i)))
        tolerated = limit("plateau.slope") * rest[0]
        if -slope * (len(rest) - 1) < max(tolerated, noise) and abs(rest[0] - np.median(rest)) < 2 * max(tolerated,
                                                                                                        noise):
            return first
    return len(medians) - 1


doctor.add(plateau, "plateau", stage="after", rank=9, symptom=True,
           rule="The loss fell, then stayed within 2 % for half of the training, above 40 % of its start",
           cost="reads the log", course="18.06, C4.7, C6.3")
