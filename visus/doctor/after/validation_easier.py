"""Validation goes better than training.

Why: augmentation, mixing and dropout make training images harder, and the training loss of an epoch is a mean over
weights that were still worse; both are as it should be. Measured alike (eval mode, no augmentation) training images
must go at least as well; where they do not, validation images are easier or leak from training.
The bound is in points of accuracy beyond three standard errors of the validation's own count, where it is known.
Source: Stanford CS231n notes 3, "train/val accuracy".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from visus import doctor
from visus.core.record import Finding
from visus.doctor.curve import column, headline, step_of
from visus.doctor.history import History
from visus.doctor.thresholds import limit


def validation_easier(history: History) -> Iterator[Finding]:
    held, clean = headline(history), column(history, "clean_train_accuracy")
    rows = np.flatnonzero(np.isfinite(held) & np.isfinite(clean))
    if history.headline == "accuracy" and len(rows):
        yield from _alike(history, held[rows], clean[rows], rows)
    else:
        yield from _unlike(history)


def _alike(history: History, held: np.ndarray, clean: np.ndarray, rows: np.ndarray) -> Iterator[Finding]:
    late = slice(-max(1, len(rows) // 3), None)
    value, train = float(np.median(held[late])), float(np.median(clean[late]))
    count = history.evaluated.get("count")
    images = int(count) if isinstance(count, int) and count > 0 else int(limit("validation-easier.images"))
    bound = limit("validation-easier.gap") + 3 * math.sqrt(max(train * (1 - train), 0.01) / images)
    if value - train <= bound:
        return
    yield Finding(
        "validation-easier", "warning",
        f"Accuracy on validation is {100 * (value - train):.0f} points above training, measured alike",
        f"validation {100 * value:.1f} %, training {100 * train:.1f} % in eval mode without augmentation; bound "
        f"{100 * bound:.1f} points. Neither augmentation nor dropout explains it",
        "Look for wrong labels in the training split alone, for validation images that are copies or easier "
        "(visus data show PATH; visus doctor PATH), and for another preparation of the two splits.",
        step=step_of(history, int(rows[-1])))


def _unlike(history: History) -> Iterator[Finding]:
    train, held = column(history, "train_loss"), column(history, "val_loss")
    rows = np.flatnonzero(np.isfinite(train) & np.isfinite(held))
    if len(rows) < limit("validation-easier.epochs"):
        return
    late = rows[-max(2, len(rows) // 3):]
    share = float(np.median(held[late] / np.maximum(train[late], 1e-12)))
    if share >= limit("validation-easier.loss") or \
            float(np.median(train[late] - held[late])) < limit("validation-easier.loss-least"):
        return
    cause = "Training batches are augmented or have dropout, which explains it." if history.augmented else \
        "No augmentation is known of: label smoothing, dropout or a leak may be the cause."
    yield Finding(
        "validation-easier", "note", "Validation loss is below training loss",
        f"{float(np.median(held[late])):.4g} and {float(np.median(train[late])):.4g} over the last {len(late)} epochs. "
        + cause, "Measure some training images like validation (eval mode, no augmentation): if the gap stays, look "
        "for a leak.", step=step_of(history, int(rows[-1])))


doctor.add(validation_easier, "validation-easier", stage="after", rank=5,
           rule="Measured alike, accuracy on validation is 5 points and three standard errors above training",
           cost="reads the log", course="18.07, C4.7, C6.3")
