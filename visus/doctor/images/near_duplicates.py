"""Nearly the same image twice: a scaled, recompressed or retouched copy, a frame of the same burst.

Rule: as `twins` says: 6 of 64 bits, 12 grey levels, and 0.35 of the usual distance to the third nearest image. More
than 1 % of the images is a warning. Where more than a fifth of what chance would give have different labels, likeness
does not mean sameness in this set (documents, X-rays, one-bit drawings), and nothing is said of it. Source:
reliability.md A1; the third rule and the bound were measured on digits, Fashion-MNIST, CIFAR-10, Omniglot, CamVid and
photographs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, pair_named, show
from visus.doctor.images.pixels import pixels_of
from visus.doctor.images.twins import twins_of
from visus.doctor.thresholds import limit


def near_duplicates(images: ImageSet) -> Iterator[Finding]:
    pixels, twins = pixels_of(images), twins_of(images)
    if not len(twins.near) or not twins.trusted():
        return
    members = len(np.unique(twins.near))
    share = members / len(pixels)
    order = np.argsort(twins.apart, kind="stable")
    first = twins.first()
    pairs = [(int(first[a]), int(first[b])) for a, b in twins.near[order]]
    show(images, "near-duplicates", (Exhibit(pair, f"{twins.apart[k]:.1f} grey levels apart")
                                     for pair, k in zip(pairs, order.tolist(), strict=True)))
    yield Finding(
        check="near-duplicates", severity="warning" if share > limit("near-duplicates.share") else "note",
        title=f"{members:,} images have a near twin in the set ({100 * share:.3g} %)",
        evidence=f"{len(pairs):,} pairs differ in at most {limit('near-duplicates.bits'):g} of 64 bits of their hash "
                 f"and by {twins.apart.min():.1f} to {twins.apart.max():.1f} grey levels{pixels.basis}, bound "
                 f"{100 * limit('near-duplicates.share'):g} %: {pair_named(images, pairs)}",
        remedy="Keep one of each pair, or give the pairs a common group so that no split divides them")


add(near_duplicates, "near-duplicates", stage="images", rank=5,
    rule="hash within 6 of 64 bits, grey copies within 12 levels and 0.35 of the usual distance: above 1 % a warning",
    cost="one decoding of each image, shared; 2 s for 100,000 hashes", course="1.02")
