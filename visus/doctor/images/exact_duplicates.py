"""The same image twice in a set.

Rule: the decoded pixels of two images are equal. More than 1 % of surplus copies is a warning: a copy weighs its image
twice in the loss, and lands in two splits when somebody divides the set at random. Pixels are compared and not files:
the same picture with other metadata is found. Source: reliability.md A1; Barz and Denzler, 2020, "Do we train on
test data?" (arXiv:1902.00423), for what copies do to a benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, pair_named, show
from visus.doctor.images.pixels import pixels_of
from visus.doctor.images.twins import twins_of
from visus.doctor.thresholds import limit


def exact_duplicates(images: ImageSet) -> Iterator[Finding]:
    pixels, twins = pixels_of(images), twins_of(images)
    surplus = twins.surplus()
    if not surplus:
        return
    share = surplus / len(pixels)
    groups = list(twins.equal())
    show(images, "exact-duplicates", (Exhibit(tuple(g[:2].tolist()), f"{len(g)} images with equal pixels")
                                      for g in groups))
    yield Finding(
        check="exact-duplicates", severity="warning" if share > limit("exact-duplicates.share") else "note",
        title=f"{surplus:,} image{'s are copies of others' if surplus > 1 else ' is a copy of another'} "
              f"({100 * share:.3g} %)",
        evidence=f"{len(groups):,} groups of equal pixels among {len(pixels):,} images{pixels.basis}, bound "
                 f"{100 * limit('exact-duplicates.share'):g} %: " + pair_named(images, [(int(g[0]), int(g[1]))
                                                                                      for g in groups]),
        remedy="Keep one of each before the set is divided into splits; to weigh an image more, use a sampler")


add(exact_duplicates, "exact-duplicates", stage="images", rank=4,
    rule="surplus images with equal pixels: a note, above 1 % of the images a warning",
    cost="one decoding of each image, shared", course="1.02")
