"""The net learns its training images by heart: validation gets worse while training gets better.

Why: from the best epoch on what is learnt no longer holds for other images. Two measures: the validation loss rises for
three evaluations running while the training loss falls, and ends well above its best; or accuracy on training images,
measured like validation, is far above that on validation. A loss that rises while the metric stays is a note: the net
only becomes too sure (see calibration).
Source: Stanford CS231n notes 3, "train/val accuracy"; Prechelt, Early Stopping - But When?, 1998 (three strips).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import column, curve_of, epoch_names, headline, step_of
from visus.doctor.history import History
from visus.doctor.thresholds import limit

SHARES = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "mean_average_precision")  # from 0 to 1
REMEDY = ("More images or stronger augmentation; more weight decay or dropout; a smaller net or pretrained weights; "
          "stop at the best epoch (--set train.patience=5).")


def overfitting(history: History) -> Iterator[Finding]:
    seen = set()
    for finding in (_gap(history), _rise(history)):
        if finding is not None and finding.check not in seen:
            seen.add(finding.check)
            yield finding


def _gap(history: History) -> Finding | None:
    """Accuracy on training images against validation, at the end."""
    if history.headline != "accuracy":
        return None
    train, held = column(history, "clean_train_accuracy"), headline(history)
    known = np.flatnonzero(np.isfinite(train) & np.isfinite(held))
    if not len(known):
        return None
    last = int(known[-1])
    gap = float(train[last] - held[last])
    if gap <= limit("overfitting.gap"):
        return None
    wide = (train - held)[known] > limit("overfitting.gap")
    narrow = np.flatnonzero(~wide)
    begun = int(known[narrow[-1] + 1 if len(narrow) else 0])
    return Finding(
        "overfitting", "warning", f"Accuracy on training images is {100 * gap:.0f} points above validation",
        f"{100 * train[last]:.1f} % and {100 * held[last]:.1f} % after epoch {epoch_names(history)[last]}, measured "
        f"alike; bound {100 * limit('overfitting.gap'):g} points", REMEDY, step=step_of(history, begun))


def _rise(history: History) -> Finding | None:
    """Validation that gets worse while the training loss goes down."""
    clean = column(history, "clean_train_loss")
    train = clean if np.isfinite(clean).all() and len(clean) else column(history, "train_loss")
    held = column(history, "val_loss")
    rows = np.flatnonzero(np.isfinite(train) & np.isfinite(held))
    train, held = train[rows], held[rows]
    running = int(limit("overfitting.rises"))
    curve = curve_of(history)
    if len(rows) <= running or (curve is not None and curve.fall < 0):
        return None
    return _loss_rises(history, rows, train, held, running) or _metric_falls(history, rows, train)


def _loss_rises(history: History, rows: np.ndarray, train: np.ndarray, held: np.ndarray,
                running: int) -> Finding | None:
    best = int(np.argmin(held))
    after = held[best:]
    if len(after) <= running or train[-1] >= train[best]:
        return None
    rises = np.diff(after) > 0
    streak = max((int(part.sum()) for part in np.split(rises, np.flatnonzero(~rises)) if part.any()), default=0)
    end = float(np.median(held[-running:]))
    rise, lost = end / held[best] - 1 if held[best] > 0 else 0.0, end - float(held[best])
    if streak < running or rise <= limit("overfitting.rise") or lost <= limit("overfitting.rise-of-start") * held[0]:
        return None
    metric = headline(history)[rows]
    known = np.isfinite(metric).all()
    worse = float(metric.max() - np.median(metric[-running:])) if known else float("inf")
    holds = known and worse <= limit("overfitting.metric")
    name = epoch_names(history)[int(rows[best])]
    return Finding(
        "overfitting", "note" if holds else "warning",
        f"Validation loss rises from epoch {name} on while training loss falls",
        f"validation {held[best]:.4g} at epoch {name}, {end:.4g} at the end (+{100 * rise:.0f} %, {streak} rises "
        f"running); training {train[best]:.4g}, then {train[-1]:.4g}"
        + (f"; {history.headline} lost {worse:.3f}" if known else ""),
        "The net becomes too sure of itself, not worse: calibrate it (visus calibrate RUN)." if holds else REMEDY,
        step=step_of(history, int(rows[best])))


def _metric_falls(history: History, rows: np.ndarray, train: np.ndarray) -> Finding | None:
    """The metric itself, as a median of three evaluations, ends well below its best while the training loss falls."""
    metric = headline(history)[rows]
    if len(metric) < 6 or not np.isfinite(metric).all():
        return None
    of_three = np.median(np.lib.stride_tricks.sliding_window_view(metric, 3), axis=1)
    best = int(np.argmax(of_three))
    lost = float(of_three[best] - of_three[-1])
    if history.headline not in SHARES or lost <= limit("overfitting.metric-fall") or train[-1] >= train[best + 1]:
        return None
    name = epoch_names(history)[int(rows[best + 1])]
    return Finding(
        "overfitting", "warning", f"Validation gets worse from epoch {name} on while training loss falls",
        f"{history.headline} {abs(of_three[best]):.3f} around epoch {name}, {abs(of_three[-1]):.3f} at the end "
        f"(medians of three; bound {limit('overfitting.metric-fall'):g}); training loss {train[best + 1]:.4g}, "
        f"then {train[-1]:.4g}", REMEDY, step=step_of(history, int(rows[best + 1])))


doctor.add(overfitting, "overfitting", stage="after", rank=3,
           rule="Validation loss rises three evaluations running, by 10 %, while training loss falls, or accuracy on "
                "training images is 15 points above validation", cost="reads the log", course="18.07, C4.7, C6.3")
