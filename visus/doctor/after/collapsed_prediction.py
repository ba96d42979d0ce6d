"""Nearly all images get the same answer, though they are of several classes.

Why: dead units, a rate that was too high, a head that only learnt the majority, inputs that are all alike to the net.
Source: reliability.md R10; Karpathy, A Recipe for Training Neural Networks, 2019: look at the predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def collapsed_prediction(history: History) -> Iterator[Finding]:
    found = predictions(history.evaluated)
    if found is None:
        return
    names, truth, predicted = found
    total = float(predicted.sum())
    if total < limit("collapsed-prediction.images") or len(names) < 2:
        return
    most = int(np.argmax(predicted))
    share, real = predicted[most] / total, truth[most] / max(float(truth.sum()), 1.0)
    if share <= limit("collapsed-prediction.share") or real >= limit("collapsed-prediction.true-share"):
        return
    yield Finding(
        "collapsed-prediction", "error", f"Nearly every image is called {names[most]}",
        f"{100 * share:.1f} % of {total:.0f} predictions (bound {100 * limit('collapsed-prediction.share'):g} %), "
        f"while {100 * real:.1f} % of the images are; {int((predicted == 0).sum())} of {len(names)} classes are never "
        "named",
        "Look at the findings before training first (input scale, dead units, learning rate); with few images of the "
        "other classes, weight the loss or the sampling.")


def predictions(row: Mapping[str, Any]) -> tuple[Sequence[str], np.ndarray, np.ndarray] | None:
    """(names, images [C], predictions [C]) by class: from the confusion, else from recall and precision; None where
    neither was measured."""
    confusion = row.get("confusion")
    if isinstance(confusion, Mapping) and confusion.get("counts"):
        counts = np.array(confusion["counts"], dtype=np.float64)  # [C, C], truth in rows
        return [str(name) for name in confusion["labels"]], counts.sum(1), counts.sum(0)
    rows = [r for r in row.get("per_class") or () if isinstance(r, Mapping)]
    if not rows or any(r.get("recall") is None or r.get("count") is None for r in rows) or not row.get("confused"):
        return None
    truth = np.array([float(r["count"]) for r in rows])
    right = truth * np.array([float(r["recall"]) for r in rows])
    precision = np.array([float(r.get("precision") or 0.0) for r in rows])
    predicted = np.where(right > 0, right / np.maximum(precision, 1e-12), 0.0)
    return [str(r.get("name", k)) for k, r in enumerate(rows)], truth, predicted


doctor.add(collapsed_prediction, "collapsed-prediction", stage="after", rank=7, symptom=True,
           rule="One class gets more than 95 % of the predictions and has less than 60 % of the images",
           cost="reads the evaluation", course="C6.3")
