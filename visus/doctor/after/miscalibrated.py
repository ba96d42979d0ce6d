"""The confidence of the predictions is not their accuracy.

Why: cross-entropy pushes a net that is right already to be surer still; with few images the error is partly chance, so
it must exceed what the counts of the bins would give a net that is calibrated.
Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017; reliability.md R11 (ECE above 0.1: a note).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from visus import doctor
from visus.core.record import Finding
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def miscalibrated(history: History) -> Iterator[Finding]:
    measured = history.evaluated.get("reliability")
    if not isinstance(measured, Mapping) or not isinstance(measured.get("ece"), int | float):
        return
    bins = [b for b in measured.get("bins") or () if isinstance(b, Mapping) and b.get("count")
            and b.get("confidence") is not None and b.get("accuracy") is not None]
    total = sum(b["count"] for b in bins)
    ece = float(measured["ece"])
    chance = sum(math.sqrt(2 / math.pi * b["count"] * max(b["confidence"] * (1 - b["confidence"]), 0.0))
                 for b in bins) / total if total else 0.0
    if total < limit("miscalibrated.images") or ece <= limit("miscalibrated.ece") + chance:
        return
    gap = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in bins) / total
    yield Finding(
        "miscalibrated", "note",
        f"The net is too {'sure' if gap > 0 else 'unsure'} of its answers",
        f"expected calibration error {ece:.3f} on {total} images (bound {limit('miscalibrated.ece'):g} beyond the "
        f"{chance:.3f} of chance); mean confidence {'above' if gap > 0 else 'below'} accuracy by "
        f"{100 * abs(gap):.0f} points",
        "Fit a temperature on validation images: visus calibrate RUN.")


doctor.add(miscalibrated, "miscalibrated", stage="after", rank=8,
           rule="The expected calibration error is above 0.1, beyond what the counts of the bins give by chance",
           cost="reads the evaluation", course="C6.3")
