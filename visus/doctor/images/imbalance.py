"""Classes of very different sizes.

Rule: the largest class has more than 10 times the training images of the smallest that has any: a note, 100 times a
warning. Beside it the accuracy of always answering with the largest class, which is what accuracy must be compared
with. Source: reliability.md A4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.image_set import ImageSet
from visus.doctor.thresholds import limit


def class_counts(images: ImageSet, places: np.ndarray) -> np.ndarray:
    """int64 [K]: images of each class among those at `places`; for several labels an image counts for each."""
    labels = images.labels
    assert labels is not None
    if labels.ndim > 1:
        return labels[places].sum(0).astype(np.int64)
    return np.bincount(labels[places], minlength=max(len(images.classes), int(labels.max(initial=-1)) + 1))


def class_name(images: ImageSet, k: int) -> str:
    return images.classes[k] if k < len(images.classes) else str(k)


def imbalance(images: ImageSet) -> Iterator[Finding]:
    if images.labels is None or not len(images):
        return
    train = images.splits().get("train", np.arange(len(images)))
    counts = class_counts(images, train)
    held = np.flatnonzero(counts)
    if len(held) < 2:
        return
    least, most = held[counts[held].argmin()], int(counts.argmax())
    ratio = counts[most] / counts[least]
    if ratio <= limit("imbalance.note"):
        return
    share = counts[most] / len(train)
    yield Finding(
        check="imbalance", severity="warning" if ratio > limit("imbalance.warning") else "note",
        title=f"Class {class_name(images, most)} has {ratio:,.0f} times the images of {class_name(images, int(least))}",
        evidence=f"{counts[most]:,} and {counts[least]:,} training images, bounds {limit('imbalance.note'):g} and "
                 f"{limit('imbalance.warning'):g}; always answering {class_name(images, most)} is right for "
                 f"{100 * share:.1f} %",
        remedy="Judge by balanced accuracy or macro F1. Draw the classes more evenly: --set data.sampling=weighted (or "
               "sqrt). Or weigh the loss: --set loss.class_weights=balanced (or effective), loss.name=class_balanced, "
               "focal or logit_adjusted. Or set the last bias to the logarithm of the shares")


add(imbalance, "imbalance", stage="images", rank=6,
    rule="largest over smallest class in train: above 10 a note, above 100 a warning", cost="none", course="18.19")
