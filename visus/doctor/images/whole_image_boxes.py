"""Boxes that say nothing because they always hold the whole image.

Rule: more than half of a class's boxes, of at least 10, cover 98 % of both sides of their image: a warning. It is what
an export makes of labels that never had a place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.placed_marks import box_words, class_of, placed_marks, report
from visus.doctor.thresholds import limit


def whole_image_boxes(images: ImageSet) -> Iterator[Finding]:
    marks = placed_marks(images)
    if marks is None or not len(marks):
        return
    inside = np.minimum(marks.boxes[:, 2:], marks.size) - np.maximum(marks.boxes[:, :2], 0)
    whole = (inside >= limit("whole-image-boxes.covered") * marks.size).all(1)
    many, most = np.bincount(marks.labels), np.bincount(marks.labels[whole], minlength=int(marks.labels.max()) + 1)
    guilty = (many >= limit("whole-image-boxes.least")) & (most > limit("whole-image-boxes.share") * many)
    if not guilty.any():
        return
    names = [f"{class_of(images, int(k))} ({most[k]:,} of {many[k]:,})" for k in np.flatnonzero(guilty)[:5]]
    yield report(images, marks, "whole-image-boxes", whole & guilty[marks.labels],
                 title=f"Boxes of {', '.join(names)} hold the whole image", warning_share=0.0,
                 evidence=f"they cover {100 * limit('whole-image-boxes.covered'):g} % of both sides",
                 words=lambda k: f"{class_of(images, int(marks.labels[k]))} {box_words(marks.boxes[k])}",
                 remedy="Mark where the objects are, or train a classifier: a class a picture needs no box")


add(whole_image_boxes, "whole-image-boxes", stage="images", rank=3,
    rule="more than half of a class's boxes, of at least 10, hold the whole image",
    cost="one decoding of each image, shared", course="1.32")
