"""Files that are listed as images and cannot be decoded.

Rule: one is an error, because training opens it sooner or later and stops there. Each is named with what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.pixels import pixels_of

NAMED = 5


def unreadable_images(images: ImageSet) -> Iterator[Finding]:
    pixels = pixels_of(images)
    if not pixels.bad:
        return
    said = "; ".join(f"{images.sources[i]}: {problem}" for i, problem, _ in pixels.bad[:NAMED])
    more = f" and {len(pixels.bad) - NAMED:,} more" if len(pixels.bad) > NAMED else ""
    count = f"{len(pixels.bad):,} image{'s' if len(pixels.bad) > 1 else ''}"
    yield Finding(
        check="unreadable-images", severity="error", title=f"{count} cannot be read",
        evidence=f"of {pixels.looked:,} opened (bound 0): {said}{more}{pixels.basis}",
        remedy=pixels.bad[0][2] or "Replace the files, or leave them out with --on-bad-image skip")


add(unreadable_images, "unreadable-images", stage="images", rank=1, rule="a listed image that cannot be decoded",
    cost="one decoding of each image, shared", course="1.01")
