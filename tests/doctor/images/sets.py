"""Small sets of images for the tests of the checks."""

from __future__ import annotations

import numpy as np

from visus.doctor.image_set import ImageSet
from visus.doctor.thresholds import THRESHOLDS


def blobs(count: int, seed: int = 0, side: int = 32, channels: int = 1) -> np.ndarray:
    """uint8 [count, side, side, channels]: smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 6, 6, channels))
    place = np.linspace(0, 5, side)
    low = np.minimum(place.astype(int), 4)
    part = place - low
    rows = coarse[:, low] * (1 - part)[None, :, None, None] + coarse[:, low + 1] * part[None, :, None, None]
    part = part[None, None, :, None]
    return (rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part).astype(np.uint8)


def image_set(images, labels=None, split=None, **known) -> ImageSet:
    """images: [N, H, W, C], or a list of such. split: default all 'train'."""
    count = len(images)
    labels = None if labels is None else np.asarray(labels)
    classes = known.pop("classes", None) or (
        () if labels is None else tuple(f"class{k}" for k in range(labels.shape[1] if labels.ndim > 1
                                                                   else int(labels.max()) + 1)))
    return ImageSet(read=lambda i: images[i], labels=labels, classes=classes,
                    split=np.array(["train"] * count if split is None else split, "<U5"),
                    sources=known.pop("sources", None) or tuple(f"{i}.png" for i in range(count)), **known)


def bound(name: str) -> float:
    return THRESHOLDS[name].value
