"""Images in which nothing is marked, in a set whose images have objects.

Rule: any is a note: as background they are useful, as forgotten work they teach a detector to overlook things. Above
half of the images it is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, named, show
from visus.doctor.thresholds import limit


def unmarked_images(images: ImageSet) -> Iterator[Finding]:
    if images.marks is None or not len(images.marks):
        return
    empty = np.flatnonzero(np.bincount(images.marks.image, minlength=len(images)) == 0)
    if not len(empty):
        return
    show(images, "unmarked-images", (Exhibit((int(i),), "nothing is marked") for i in empty))
    share = len(empty) / len(images)
    yield Finding(check="unmarked-images", severity="warning" if share > limit("unmarked-images.share") else "note",
                  title=f"{len(empty):,} image{'s have' if len(empty) > 1 else ' has'} no objects",
                  evidence=f"{100 * share:.3g} % of {len(images):,}: {named(images, empty)}",
                  remedy="Look at some: if they show objects, mark them; if not, they are background and may stay")


add(unmarked_images, "unmarked-images", stage="images", rank=5,
    rule="images without objects in a set that has them: a note, a warning above half", cost="none", course="1.32")
