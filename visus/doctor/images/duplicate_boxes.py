"""The same object marked twice.

Rule: two boxes of one class in one image whose intersection over union is above 0.95; crowds are left out. A warning
from 1 % of the boxes on, else a note. Neighbours in the order of their left edge are compared, as far as they can
reach that overlap. Source: reliability.md A8.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.placed_marks import box_words, class_of, placed_marks, report, some
from visus.doctor.thresholds import limit

MOST_STEPS = 64  # neighbours on one side that a box is compared with


def duplicate_boxes(images: ImageSet) -> Iterator[Finding]:
    marks = placed_marks(images)
    if marks is None or len(marks) < 2:
        return
    twice = repeated(marks.image, marks.labels, marks.boxes, ~marks.crowd, limit("duplicate-boxes.overlap"))
    if twice.any():
        yield report(images, marks, "duplicate-boxes", twice, title=f"{some(int(twice.sum()), 'box')} there twice",
                     evidence=f"another box of the class in the image with an overlap above "
                     f"{limit('duplicate-boxes.overlap'):g}", warning_share=limit("duplicate-boxes.share"),
                     words=lambda k: f"{class_of(images, int(marks.labels[k]))} {box_words(marks.boxes[k])}",
                     remedy="Keep one of both: the other counts as a miss in every score")


def repeated(image: np.ndarray, labels: np.ndarray, boxes: np.ndarray, used: np.ndarray, overlap: float) -> np.ndarray:
    """bool [m]: the later of two boxes, of one image and label, with an intersection over union above `overlap`."""
    spans = boxes[:, 2:] - boxes[:, :2]
    used = used & np.isfinite(boxes).all(1) & (spans > 0).all(1)
    rows = np.flatnonzero(used)
    rows = rows[np.lexsort((boxes[rows, 0], labels[rows], image[rows]))]
    found = np.zeros(len(image), bool)
    for step in range(1, min(MOST_STEPS, len(rows) - 1) + 1):
        one, other = rows[:-step], rows[step:]
        # With an overlap of t the left edges are no further apart than (1 - t) of the wider box.
        near = ((image[one] == image[other]) & (labels[one] == labels[other])
                & (boxes[other, 0] - boxes[one, 0] <= (1 - overlap) * spans[one, 0]))
        if not near.any():
            break
        one, other = one[near], other[near]
        low, high = np.maximum(boxes[one, :2], boxes[other, :2]), np.minimum(boxes[one, 2:], boxes[other, 2:])
        shared = (high - low).clip(0).prod(1)
        same = shared > overlap * (spans[one].prod(1) + spans[other].prod(1) - shared)
        found[np.maximum(one[same], other[same])] = True
    return found


add(duplicate_boxes, "duplicate-boxes", stage="images", rank=3,
    rule="two boxes of one class in one image with an intersection over union above 0.95", cost="milliseconds",
    course="1.32")
