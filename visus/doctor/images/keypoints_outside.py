"""Keypoints that are marked and lie outside of the image.

Rule: more than 2 px beyond an edge, of those that are not "not marked". A warning where more than 1 % of the objects
with keypoints have one, else a note.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.placed_marks import class_of, placed_marks, report, some
from visus.doctor.thresholds import limit


def keypoints_outside(images: ImageSet) -> Iterator[Finding]:
    marks = placed_marks(images)
    if marks is None or marks.keypoints is None or not len(marks):
        return
    points, slack = marks.keypoints, limit("keypoints-outside.px")
    marked = points[..., 2] > 0
    inside = (points[..., :2] >= -slack).all(-1) & (points[..., :2] <= marks.size[:, None] + slack).all(-1)
    outside = np.logical_and(marked, ~inside)
    objects = np.any(outside, axis=1)
    if not objects.any():
        return

    def words(k: int) -> str:
        p = int(outside[k].argmax())
        return (f"{class_of(images, int(marks.labels[k]))}: keypoint {p} at {points[k, p, 0]:.6g}, "
                f"{points[k, p, 1]:.6g} in an image of {marks.size[k, 0]:g} x {marks.size[k, 1]:g}")

    yield report(images, marks, "keypoints-outside", objects,
                 title=f"{some(int(outside.sum()), 'keypoint', 'lie')} outside of the image",
                 evidence=f"more than {slack:g} px beyond the edge", warning_share=limit("keypoints-outside.share"),
                 words=words, remedy="Correct them, or say that they are not marked (visibility 0)")


add(keypoints_outside, "keypoints-outside", stage="images", rank=3,
    rule="a marked keypoint more than 2 px outside of its image", cost="one decoding of each image, shared",
    course="1.32")
