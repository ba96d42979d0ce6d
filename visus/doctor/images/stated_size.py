"""Annotations that speak of another size than the file has.

Rule: a stated width or height that differs by more than 1 px: the coordinates are those of another picture. An error
from 1 % of the images on, a warning below. Exchanged sides are named: then EXIF orientation was not applied when it was
marked. Source: reliability.md 2.1, case 38.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import MOST, NAMED, Exhibit, show
from visus.doctor.images.placed_marks import sizes_seen
from visus.doctor.thresholds import limit


def stated_size(images: ImageSet) -> Iterator[Finding]:
    if images.stated is None:
        return
    seen = sizes_seen(images)
    known = (seen > 0).all(1) & (images.stated > 0).all(1)
    unlike = known & (np.abs(seen - images.stated) > limit("stated-size.px")).any(1)
    if not unlike.any():
        return
    places = np.flatnonzero(unlike)
    turned = unlike & (seen == images.stated[:, ::-1]).all(1)

    def words(i: int) -> str:
        text = (f"said to have {images.stated[i, 1]} x {images.stated[i, 0]} pixels, "  # type: ignore[index]
                f"has {seen[i, 1]} x {seen[i, 0]}")
        return text + (" (exchanged)" if turned[i] else "")

    show(images, "stated-size", (Exhibit((int(i),), words(i)) for i in places[:MOST]))
    said = "; ".join(f"{images.sources[i]} is {words(i)}" for i in places[:NAMED])
    more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
    remedy = ("Width and height are exchanged: the images were marked without their EXIF orientation. Mark them as "
              "they are shown, or save them turned and without EXIF" if 2 * turned.sum() > len(places) else
              "The boxes belong to images of another size: take those images, or scale the boxes by the ratio")
    count = f"{len(places):,} image{'s have' if len(places) > 1 else ' has'}"
    share = len(places) / int(known.sum())
    yield Finding(check="stated-size", title=f"{count} another size than the annotations say",
                  severity="error" if share > limit("stated-size.share") else "warning", remedy=remedy,
                  evidence=f"more than {limit('stated-size.px'):g} px apart, {100 * share:.3g} % of "
                           f"{int(known.sum()):,}: {said}{more}")


add(stated_size, "stated-size", stage="images", rank=1,
    rule="a width or height in the annotations more than 1 px unlike the file's",
    cost="one decoding of each image, shared", course="1.32")
