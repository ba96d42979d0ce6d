"""The same image under two labels: one of them is wrong, and no net can learn both.

Rule: equal pixels with different labels are an error. Near twins with different labels are a note, and a warning when
there is more than one such pair for 1,000 images, where near twins of this set mostly share their label. Of several
labels an image, all must agree. Source: reliability.md A1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, label_names, show
from visus.doctor.images.pixels import pixels_of
from visus.doctor.images.twins import twins_of
from visus.doctor.thresholds import limit

Severity = Literal["error", "warning", "note"]
REMEDY = "Look at both, correct the label that is wrong, and keep one of the two"


def conflicting_labels(images: ImageSet) -> Iterator[Finding]:
    labels = images.labels
    if labels is None:
        return
    twins = twins_of(images)
    code = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1) if labels.ndim > 1 else labels
    pairs = []
    for group in twins.equal():
        other = group[code[group] != code[group[0]]]
        if len(other):
            pairs.append((int(group[0]), int(other[0])))
    if pairs:
        yield _finding(images, pairs, "error", "with equal pixels have different labels", "equal")
    first = twins.first()
    near = first[twins.near] if len(twins.near) and twins.trusted() else np.zeros((0, 2), np.int64)
    differ = near[code[near[:, 0]] != code[near[:, 1]]]
    if len(differ):
        share = len(differ) / len(twins.place)
        yield _finding(images, [(int(a), int(b)) for a, b in differ],
                       "warning" if share > limit("conflicting-labels.near_share") else "note",
                       "that nearly equal each other have different labels", "nearly equal")


def _finding(images: ImageSet, pairs: list[tuple[int, int]], severity: Severity, what: str, how: str) -> Finding:
    said = [f"{images.sources[i]} ({label_names(images, i)}) = {images.sources[j]} ({label_names(images, j)})"
            for i, j in pairs]
    show(images, "conflicting-labels", (
        Exhibit(pair, f"{how}: {label_names(images, pair[0])} or {label_names(images, pair[1])}") for pair in pairs))
    more = f" and {len(said) - 5:,} more" if len(said) > 5 else ""
    count = f"{len(pairs):,} pair{'s' if len(pairs) > 1 else ''} of images"
    return Finding(check="conflicting-labels", severity=severity, title=f"{count} {what}",
                   evidence="; ".join(said[:5]) + more + pixels_of(images).basis, remedy=REMEDY)


add(conflicting_labels, "conflicting-labels", stage="images", rank=2,
    rule="two images with equal pixels and different labels, or near twins with different labels",
    cost="one decoding of each image, shared", course="1.01")
