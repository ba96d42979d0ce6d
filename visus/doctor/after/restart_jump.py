"""The loss jumps at a place where the training was taken up again: the state was not all restored.

Why: optimizer moments, schedule, running statistics, averaged weights or the order of the images began anew. A resumed
training goes on as if nothing had happened.
The jump is measured on the logarithm of the loss between two straight lines, one before and one after, and compared
with the same measure at every other place of the curve: slope and noise of its own count as usual.
Source: reliability.md R8: a sudden step of more than 5 sigma at a resume.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import curve_of, robust_sigma
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def restart_jump(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None:
        return
    logs = np.log(np.maximum(curve.losses, 1e-12))
    for resumed in dict.fromkeys(history.resumed_at):
        place = int(np.searchsorted(curve.steps, resumed, side="right"))  # the first loss after the resume
        width = min(int(limit("restart-jump.window")), place, len(curve.losses) - place)
        if width < limit("restart-jump.least"):
            continue
        jumps = _jumps(logs, width)  # [k]: at place k + width
        jump = float(jumps[place - width])
        jumps = jumps[np.abs(np.arange(len(jumps)) + width - place) >= width]
        if len(jumps) < limit("restart-jump.usual"):
            continue
        sigma = max(robust_sigma(jumps), 1e-12)
        if abs(jump) <= limit("restart-jump.sigmas") * sigma or abs(jump) <= limit("restart-jump.share"):
            continue
        before, after = (float(np.median(part)) for part in (curve.losses[place - width:place],
                                                             curve.losses[place:place + width]))
        rates = _rates(history, resumed)
        yield Finding(
            "restart-jump", "warning", f"The loss jumps where the training was taken up again, at update {resumed}",
            f"median {before:.4g} before, {after:.4g} after, a jump of {100 * (np.exp(jump) - 1):+.0f} %: "
            f"{abs(jump) / sigma:.1f} sigma of those elsewhere (bound {limit('restart-jump.sigmas'):g})" + rates,
            "Restore optimizer, schedule, averaged weights, scaler, generators and the place in the epoch with the "
            "weights: `visus train --resume RUN` does, to the bit.", step=resumed)


def _jumps(logs: np.ndarray, width: int) -> np.ndarray:
    """[N] -> [N - 2 * width + 1]: between the straight lines through `width` values before and after each place, where
    they meet it: a slope is no jump."""
    x = np.arange(width) + 0.5
    after = np.linalg.pinv(np.stack([x, np.ones(width)], 1))[1]  # weights of the values in the line's height at 0
    windows = np.lib.stride_tricks.sliding_window_view(logs, width)  # [N - width + 1, width]
    return (windows @ after)[width:] - (windows @ after[::-1])[:-width]


def _rates(history: History, resumed: int) -> str:
    """Words on a rate that is another after the resume."""
    if len(history.lrs) != len(history.steps):
        return ""
    place = int(np.searchsorted(history.steps, resumed, side="right"))
    before, after = history.lrs[place - 1], history.lrs[place]
    return f"; the rate went from {before:.3g} to {after:.3g}" if max(before, after) > 2 * min(before, after) else ""


doctor.add(restart_jump, "restart-jump", stage="after", rank=1,
           rule="At a resume the loss jumps by more than 5 sigma of what it does elsewhere, and by 10 %",
           cost="reads the log", course="18.06, 18.14")
