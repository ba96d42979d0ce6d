"""Boxes without area, and boxes too small to see what is in them.

Rules: a width or height of 0 or less, or that is no number, is a warning. A shorter side below 4 px is a note from 1 %
of the boxes on, a warning from 20 % on. Source: reliability.md A8.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.placed_marks import box_words, class_of, placed_marks, report, some
from visus.doctor.thresholds import limit


def tiny_boxes(images: ImageSet) -> Iterator[Finding]:
    marks = placed_marks(images)
    if marks is None or not len(marks):
        return
    short = (marks.boxes[:, 2:] - marks.boxes[:, :2]).min(1)  # px

    def words(k: int) -> str:
        return f"{class_of(images, int(marks.labels[k]))} {box_words(marks.boxes[k])}"

    empty = ~(short > 0)
    if empty.any():
        yield report(images, marks, "tiny-boxes", empty, title=f"{some(int(empty.sum()), 'box')} empty",
                     evidence="a width or height of 0 or less", warning_share=0.0, words=words,
                     remedy="Remove them: no network can learn from a box without area")
    side = limit("tiny-boxes.side")
    tiny = (short < side) & ~empty
    if tiny.mean() > limit("tiny-boxes.note"):
        yield report(images, marks, "tiny-boxes", tiny, title=f"{some(int(tiny.sum()), 'box')} tiny",
                     evidence=f"a side below {side:g} px", warning_share=limit("tiny-boxes.warning"), words=words,
                     remedy="Train on larger images or on parts of them, or leave such boxes out")


add(tiny_boxes, "tiny-boxes", stage="images", rank=3,
    rule="a box without area; more than 1 % of the boxes with a side below 4 px",
    cost="one decoding of each image, shared", course="1.32")
