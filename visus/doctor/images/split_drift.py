"""Splits whose images or classes differ from those of train.

Rule: for size, aspect, brightness, contrast and sharpness the two-sample Kolmogorov-Smirnov distance to train is above
0.2 with p < 1e-4; for the classes half of the sum of differences of shares is above 0.1 with p < 1e-4 of chi-squared.
A warning: the metric then speaks of other images than those that were learnt from. Source: reliability.md A5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.images.imbalance import class_counts, class_name
from visus.doctor.images.pixels import pixels_of
from visus.doctor.thresholds import limit
from visus.metrics.two_samples import chi_squared, kolmogorov_smirnov, shared_counts


def split_drift(images: ImageSet) -> Iterator[Finding]:
    pixels = pixels_of(images)
    split = images.split[pixels.index]
    train = split == "train"
    numbers = {"size": np.sqrt(pixels.size.prod(1)), "aspect": pixels.size[:, 1] / np.maximum(pixels.size[:, 0], 1),
               "brightness": pixels.brightness, "contrast": pixels.contrast, "sharpness": pixels.sharpness}
    for name, places in images.splits().items():
        here = split == name
        if name in ("train", "") or not here.any() or not train.any():
            continue
        found = []
        for what, values in numbers.items():
            distance, p = kolmogorov_smirnov(*shared_counts(values[train], values[here]))
            if distance > limit("split-drift.ks") and p < limit("split-drift.p"):
                found.append(f"{what} {np.median(values[here]):.3g} against {np.median(values[train]):.3g} "
                             f"(medians; KS {distance:.2f}, p {p:.0e})")
        if found:
            first = found[0].split(" ", 1)[0]
            yield Finding(
                check="split-drift", severity="warning", title=f"Images of {name} differ from train in {first}"
                + (f" and {len(found) - 1} more measures" if len(found) > 1 else ""),
                evidence=f"{'; '.join(found)}; bounds KS {limit('split-drift.ks'):g}, p {limit('split-drift.p'):g}"
                + pixels.basis,
                remedy="Divide the images at random within each class; if the splits differ on purpose, say so beside "
                       "the metric")
        if images.labels is not None:
            yield from _classes(images, name, places)


def _classes(images: ImageSet, name: str, places: np.ndarray) -> Iterator[Finding]:
    a, b = class_counts(images, images.splits()["train"]), class_counts(images, places)
    if not a.sum() or not b.sum():
        return
    shares = b / b.sum() - a / a.sum()
    variation, p = float(np.abs(shares).sum()) / 2, chi_squared(a, b)[1]
    if variation <= limit("split-drift.variation") or p >= limit("split-drift.p"):
        return
    k = int(np.abs(shares).argmax())
    yield Finding(
        check="split-drift", severity="warning", title=f"The classes of {name} have other shares than in train",
        evidence=f"total variation {variation:.2f}, bound {limit('split-drift.variation'):g} (chi-squared p {p:.0e}); "
                 f"most in {class_name(images, k)}: {100 * a[k] / a.sum():.1f} % of train, "
                 f"{100 * b[k] / b.sum():.1f} % of {name}",
        remedy="Stratify the splits, or judge by balanced accuracy")


add(split_drift, "split-drift", stage="images", rank=4,
    rule="size, aspect, brightness, contrast or sharpness with KS > 0.2, class shares with total variation > 0.1",
    cost="one decoding of each image, shared", course="18.21")
