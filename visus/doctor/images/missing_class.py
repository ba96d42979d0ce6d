"""A class that cannot be learnt or cannot be measured.

Rule: no training image of a class is an error; fewer than 5 of it in train, or fewer than 2 in validation, a warning.
Source: reliability.md A4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.imbalance import class_counts, class_name
from visus.doctor.thresholds import limit

NAMED = 8


def missing_class(images: ImageSet) -> Iterator[Finding]:
    if images.labels is None or not len(images):
        return
    splits = images.splits()
    train = class_counts(images, splits.get("train", np.zeros(0, np.int64)))
    absent = np.flatnonzero(train == 0)
    if len(absent):
        yield _finding(images, absent, train, "error", "no image in train", 0,
                       "Add images of it to train, or remove the class")
    few = np.flatnonzero((train > 0) & (train < limit("missing-class.train")))
    if len(few):
        yield _finding(images, few, train, "warning", f"fewer than {limit('missing-class.train'):g} images in train",
                       limit("missing-class.train"), "Add images of it, or join it to another class")
    if "val" in splits:
        val = class_counts(images, splits["val"])
        few = np.flatnonzero((val < limit("missing-class.val")) & (train > 0))
        if len(few):
            yield _finding(images, few, val, "warning", f"fewer than {limit('missing-class.val'):g} images in val",
                           limit("missing-class.val"),
                           "Its score says next to nothing: move images of it to val, or make val larger (data.val)")


def _finding(images: ImageSet, which: np.ndarray, counts: np.ndarray, severity: str, what: str, bound: float,
             remedy: str) -> Finding:
    said = ", ".join(f"{class_name(images, int(k))} ({counts[k]})" for k in which[:NAMED])
    more = f" and {len(which) - NAMED:,} more" if len(which) > NAMED else ""
    who = f"Class {class_name(images, int(which[0]))} has" if len(which) == 1 else f"{len(which):,} classes have"
    return Finding(check="missing-class", severity="error" if severity == "error" else "warning",
                   title=f"{who} {what}", evidence=f"images: {said}{more}; bound {bound:g}", remedy=remedy)


add(missing_class, "missing-class", stage="images", rank=1,
    rule="a class with no image in train; fewer than 5 in train or 2 in val", cost="none", course="18.19")
