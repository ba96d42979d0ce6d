"""Outlines that do not fit their boxes.

Rule: a side of the box around the outline lies more than 3 px and more than 10 % of the box's side away from the box's.
A warning from 1 % of the outlines on, else a note. One of both is wrong, and which of both a network learns depends on
its kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.placed_marks import box_words, class_of, placed_marks, report, some
from visus.doctor.thresholds import limit


def outline_box(images: ImageSet) -> Iterator[Finding]:
    marks = placed_marks(images)
    if marks is None or marks.shapes is None or not len(marks):
        return
    spans = np.tile(marks.boxes[:, 2:] - marks.boxes[:, :2], 2)
    with np.errstate(invalid="ignore"):
        off = np.abs(marks.shapes - marks.boxes)
        unlike = (off > np.maximum(limit("outline-box.px"), limit("outline-box.side") * spans)).any(1) & ~marks.crowd
    if unlike.any():
        shapes = marks.shapes
        yield report(images, marks, "outline-box", unlike,
                     title=f"{some(int(unlike.sum()), 'outline', 'have')} another extent than the box",
                     evidence=f"a side more than {limit('outline-box.px'):g} px and "
                     f"{100 * limit('outline-box.side'):g} % away", warning_share=limit("outline-box.share"),
                     words=lambda k: f"{class_of(images, int(marks.labels[k]))}: outline {box_words(shapes[k])}, "
                                     f"box {box_words(marks.boxes[k])}",
                     remedy="Make the boxes anew from the outlines, or look whether outlines belong to other objects")


add(outline_box, "outline-box", stage="images", rank=3,
    rule="the box around an outline more than 3 px and 10 % unlike the object's box", cost="milliseconds",
    course="1.32")
