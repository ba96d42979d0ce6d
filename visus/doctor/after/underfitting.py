"""The net does badly on the images that it was trained on, and no longer improves: it cannot learn more as it is.

Why: too few parameters, too strong a penalty or dropout, or inputs that do not hold the answer. A gap to validation
would mean something else: less on validation is overfitting, more is noise in the training labels.
Source: Stanford CS231n notes 3, "train/val accuracy": little or no gap, raise the capacity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import Curve, column, curve_of, headline
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def underfitting(history: History) -> Iterator[Finding]:
    curve = curve_of(history)
    if curve is None or history.headline != "accuracy" or curve.updates < limit("underfitting.updates"):
        return
    clean, held = column(history, "clean_train_accuracy"), headline(history)
    rows = np.flatnonzero(np.isfinite(held))
    if len(rows) < limit("underfitting.epochs") or \
            not (curve.fall > limit("underfitting.fall") or _settled(history, curve)):
        return
    recent = rows[-max(3, len(rows) // 4):]
    value, measured = float(np.median(held[recent])), bool(np.isfinite(clean[recent]).all())
    train = float(np.median(clean[recent])) if measured else value
    if train >= limit("underfitting.accuracy") or abs(train - value) > limit("underfitting.gap"):
        return
    before = rows[: -len(recent)][-len(recent):]
    gained = value - float(np.median(held[before])) if len(before) else 1.0
    if gained > limit("underfitting.gained"):
        return
    losses = column(history, "train_loss")[-1], column(history, "val_loss")[-1]
    if not measured and not abs(losses[0] - losses[1]) < limit("underfitting.losses") * losses[1]:
        return
    yield Finding(
        "underfitting", "warning" if measured else "note",
        f"The net does not fit its own training images: {100 * train:.0f} % right" if measured else
        f"Validation stays at {100 * value:.0f} %",
        (f"training {100 * train:.1f} %, validation {100 * value:.1f} %" if measured else
         f"validation accuracy {100 * value:.1f} %, training loss {losses[0]:.4g}, validation loss {losses[1]:.4g}")
        + f"; {100 * gained:+.1f} points over the last {len(recent)} epochs",
        "A larger net, less weight decay, dropout and augmentation, a longer schedule; look whether the images hold "
        "what tells the classes apart at this size (--image-size).", step=curve.updates)


def _settled(history: History, curve: Curve) -> bool:
    """The loss hardly fell, but it did, evenly and then no more, and the net does better than guessing at the start:
    something was learnt, unlike where no gradient arrives."""
    loss, right = column(history, "clean_train_loss"), column(history, "clean_train_accuracy")
    if not (len(loss) > 2 and np.isfinite(loss).all() and np.isfinite(right).all() and loss[0] > loss[-1]):
        return False
    i, j = np.triu_indices(len(loss), 1)
    order, late = float(np.mean(np.sign(loss[i] - loss[j]))), (loss[len(loss) // 2] - loss[-1]) / (loss[0] - loss[-1])
    guessing = math.exp(-curve.start)  # share of right answers that a loss of equal probabilities stands for
    return order > limit("underfitting.order") and late < limit("underfitting.late") and \
        float(np.median(right[-3:])) > limit("underfitting.above-guessing") * guessing


doctor.add(underfitting, "underfitting", stage="after", rank=6,
           rule="Accuracy on training images stays below 60 %, within 8 points of validation, and no longer rises",
           cost="reads the log", course="18.07, C4.7, C6.3")
