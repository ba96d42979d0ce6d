"""Boxes that leave their image.

Rule: a box that reaches more than 2 px and more than 1 % of the image's side beyond the edge. A warning where one lies
outside altogether or more than 1 % of the boxes do, else a note. The edge is that of the picture as it is shown: where
the boxes fit only before the turn that EXIF asks for, they were drawn in another viewer. Source: reliability.md A8.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.placed_marks import box_words, class_of, placed_marks, report, some
from visus.doctor.thresholds import limit


def boxes_outside(images: ImageSet) -> Iterator[Finding]:
    marks = placed_marks(images)
    if marks is None or not len(marks):
        return
    edge = np.tile(marks.size, 2)
    with np.errstate(invalid="ignore"):
        beyond = np.maximum(-marks.boxes, marks.boxes - edge)  # px, on each side
        slack = np.maximum(limit("boxes-outside.px"), limit("boxes-outside.side") * edge)
        outside = (beyond > slack).any(1) | ~np.isfinite(marks.boxes).all(1)
        apart = outside & ((marks.boxes[:, :2] >= marks.size).any(1) | (marks.boxes[:, 2:] <= 0).any(1)
                           | ~np.isfinite(marks.boxes).all(1))
        turned = (marks.boxes <= np.tile(marks.size[:, ::-1], 2) + slack).all(1) & (marks.boxes >= -slack).all(1)
    if not outside.any():
        return

    def words(k: int) -> str:
        return (f"{class_of(images, int(marks.labels[k]))} {box_words(marks.boxes[k])} in an image of "
                f"{marks.size[k, 0]:g} x {marks.size[k, 1]:g}")

    remedy = "Clip the boxes to their images, or find out which of both is wrong"
    fits = int((outside & turned & (marks.size[:, 0] != marks.size[:, 1])).sum())
    if fits > len(marks) // 100 and 2 * fits > outside.sum():
        remedy = ("They would fit if width and height were exchanged: the images were turned (EXIF) after they were "
                  "marked. Mark them as they are shown, or take the EXIF orientation out")
    found = f", {int(apart.sum()):,} of them wholly" if apart.any() else ""
    yield report(images, marks, "boxes-outside", outside, title=f"{some(int(outside.sum()), 'box', 'leave')} the image"
                 + found, evidence=f"more than {limit('boxes-outside.px'):g} px and "
                 f"{100 * limit('boxes-outside.side'):g} % beyond the edge", remedy=remedy, words=words,
                 warning_share=0.0 if apart.any() else limit("boxes-outside.share"))


add(boxes_outside, "boxes-outside", stage="images", rank=2,
    rule="a box that reaches more than 2 px and 1 % of the side beyond the edge of its image",
    cost="one decoding of each image, shared", course="1.32")
