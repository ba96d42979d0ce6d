"""Images that are hardly images: constant, black, white, tiny, very long, or unlike the others in size or brightness.

Rules, each for one image: all pixels equal (a warning); mean below 8 or above 247 of 255 with deviation below 8; the
shorter side under 10 px and under half of the set's median; longer over shorter side above 5 and above twice the
median; logarithm of the size, or brightness, more than 8 robust deviations from the median. All but the first are a
note up to 1 % of the images. Source: reliability.md A7; CleanVision's list of issues; the deviations were
measured: none of digits, Fashion-MNIST, CIFAR-10 and the photographs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.exhibits import Exhibit, named, show
from visus.doctor.images.pixels import Pixels, pixels_of
from visus.doctor.thresholds import limit


def odd_images(images: ImageSet) -> Iterator[Finding]:
    pixels = pixels_of(images)
    taken = np.zeros(len(pixels), bool)
    for what, evidence, odd, remedy in _kinds(pixels):
        odd = odd & ~taken  # an image is named for the first that fits
        taken |= odd
        count = int(odd.sum())
        if not count:
            continue
        places = pixels.index[odd]
        show(images, "odd-images", (Exhibit((int(i),), what) for i in places))
        severe = what == "constant" or count > limit("odd-images.share") * len(pixels)
        yield Finding(
            check="odd-images", severity="warning" if severe else "note",
            title=f"{count:,} image{'s are' if count > 1 else ' is'} {what}",
            evidence=f"{evidence}; {100 * count / len(pixels):.3g} % of {len(pixels):,}{pixels.basis}: "
                     + named(images, places), remedy=remedy)


def _kinds(pixels: Pixels) -> Iterator[tuple[str, str, np.ndarray, str]]:
    """(what they are, the rule with its bounds, which [n], what to do)."""
    if not len(pixels):
        return
    drop = "Look at them; remove them, or find out what wrote them"
    short, long = pixels.size.min(1), pixels.size.max(1)
    dark, flat = limit("odd-images.dark"), limit("odd-images.flat")
    yield "constant", "all pixels have one value", pixels.spread <= 0, drop
    yield ("nearly black", f"mean below {dark:g}, deviation below {flat:g}",
           (pixels.brightness < dark) & (pixels.contrast < flat), drop)
    yield ("nearly white", f"mean above {255 - dark:g}, deviation below {flat:g}",
           (pixels.brightness > 255 - dark) & (pixels.contrast < flat), drop)
    side = limit("odd-images.side")
    yield ("tiny", f"a side under {side:g} px where the median is {np.median(short):g}",
           (short < side) & (short < np.median(short) / 2), "Remove them, or fetch the originals of thumbnails")
    aspect = long / np.maximum(short, 1)
    bound = limit("odd-images.aspect")
    yield ("very long and narrow", f"sides of more than {bound:g} to 1 where the median is {np.median(aspect):.2g}",
           (aspect > bound) & (aspect > 2 * np.median(aspect)), "Cut them into pieces, or pad instead of squeezing")
    for what, values in (("of an unusual size", np.log(np.maximum(pixels.size.prod(1), 1))),
                         ("unusually bright or dark", pixels.brightness)):
        middle = np.median(values)
        usual = 1.4826 * np.median(np.abs(values - middle))
        if usual > 0:
            score = np.abs(values - middle) / usual
            yield (what, f"more than {limit('odd-images.deviations'):g} robust deviations from the median "
                   f"(up to {score.max():.0f})", score > limit("odd-images.deviations"), "Look at them; remove those "
                   "that do not belong here")


add(odd_images, "odd-images", stage="images", rank=5,
    rule="constant, nearly black or white, tiny, longer than 5 to 1, or 8 robust deviations off in size or brightness",
    cost="one decoding of each image, shared", course="1.01")
