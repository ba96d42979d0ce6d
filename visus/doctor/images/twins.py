"""Equal and nearly equal images of a set, found once for all checks that need them.

Equal: the decoded pixels are, and not all of one value: such images are odd, and no copies. Nearly equal: the
perceptual hashes differ in at most 6 of 64 bits, the 32 x 32 grey copies by less than 12 grey levels in the mean, and
by less than 0.35 of what lies between each of the two and its third nearest among 2,000 other images of the set; and
both have some contrast. The rule of the third nearest is what tells a second copy of a photograph from the next pair of
trousers: where a set is full of images that look alike, two must be much more alike than is usual there. Scaled,
recompressed and slightly noisy copies are found; flips, rotations, crops and brighter copies mostly not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from visus.core.seeds import permutation
from visus.doctor.image_set import ImageSet
from visus.doctor.images.hashes import close_pairs, perceptual_hash
from visus.doctor.images.pixels import Pixels, pixels_of
from visus.doctor.thresholds import limit

REFERENCE = 2_000
NEIGHBOUR = 3
BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Twins:
    """place: int64 [n], positions of the images looked at. group: int64 [n], images with equal pixels share a number.
    near: int64 [P, 2], numbers of groups that nearly equal each other, a < b. apart: float [P], grey levels between
    them. false_share: how many of the near pairs have different labels, over what chance would give; NaN without
    labels. crowded: too many hashes are alike for near twins to be told."""

    place: np.ndarray
    group: np.ndarray
    near: np.ndarray
    apart: np.ndarray
    false_share: float = float("nan")
    crowded: bool = False

    def first(self) -> np.ndarray:
        """int64 [groups]: the position of the first image of each group."""
        return self.place[np.unique(self.group, return_index=True)[1]]

    def equal(self) -> Iterator[np.ndarray]:
        """Positions of each group of two or more, the largest group first."""
        counts = np.bincount(self.group)
        order = np.argsort(self.group, kind="stable")
        ends = np.cumsum(counts)
        for g in np.argsort(-counts, kind="stable")[:int((counts > 1).sum())]:
            yield self.place[order[ends[g] - counts[g]:ends[g]]]

    def surplus(self) -> int:
        """How many images could go without losing one."""
        return len(self.group) - (int(self.group.max()) + 1 if len(self.group) else 0)

    def trusted(self) -> bool:
        """Near twins of this set are of the same class far more often than chance would have it."""
        return not self.crowded and not self.false_share > limit("near-duplicates.false_share")


def twins_of(images: ImageSet) -> Twins:
    found = images.remembered.get("twins")
    if not isinstance(found, Twins):
        found = images.remembered["twins"] = _find(pixels_of(images), images.labels)
    return found


def _find(pixels: Pixels, labels: np.ndarray | None) -> Twins:
    blank = pixels.spread <= 0
    digest = np.where(blank, np.arange(len(pixels)).astype("<U32"), pixels.digest)
    _, first, group = np.unique(digest, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # numbered as they come, so that group g's first image has place first[g]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    group, first = rank[group.reshape(-1)], first[order]
    grey = pixels.grey[first]
    pairs = close_pairs(perceptual_hash(grey), int(limit("near-duplicates.bits"))) if len(grey) else None
    nothing = np.zeros((0, 2), np.int64)
    if pairs is None:
        return Twins(place=pixels.index, group=group, near=nothing, apart=np.zeros(0), crowded=len(grey) > 0)
    distance = _distance(grey, pairs)
    close = distance < limit("near-duplicates.grey_levels")
    lively = grey.reshape(len(grey), -1).std(1) >= limit("near-duplicates.contrast")
    close &= lively[pairs].all(1)
    pairs, distance = pairs[close], distance[close]
    usual = _usual_distance(grey, np.unique(pairs))
    near = distance < limit("near-duplicates.share_of_usual") * usual[pairs].min(1) if len(pairs) else close[:0]
    pairs, distance = pairs[near], distance[near]
    return Twins(place=pixels.index, group=group, near=pairs, apart=distance,
                 false_share=_false_share(pairs, pixels.index[first], labels))


def _distance(grey: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """float [P]: mean absolute difference in grey levels."""
    distance = np.zeros(len(pairs), np.float32)
    for start in range(0, len(pairs), 4096):
        a, b = grey[pairs[start:start + 4096, 0]], grey[pairs[start:start + 4096, 1]]
        distance[start:start + 4096] = (np.maximum(a, b) - np.minimum(a, b)).mean((1, 2), dtype=np.float32)
    return distance


def _usual_distance(grey: np.ndarray, who: np.ndarray) -> np.ndarray:
    """float [n]: of each image in `who` the mean absolute difference to its third nearest (in Euclidean distance) of
    up to 2,000 images drawn at random; 0 elsewhere, and where there are too few."""
    usual = np.zeros(len(grey), np.float32)
    chosen = permutation(len(grey), 0, "twins")[:REFERENCE]
    if len(chosen) <= NEIGHBOUR + 1:
        usual[who] = 2 * limit("near-duplicates.grey_levels")
        return usual
    reference = grey[chosen].reshape(len(chosen), -1).astype(np.float32)
    norms = (reference**2).sum(1)
    for start in range(0, len(who), BLOCK):
        block = who[start:start + BLOCK]
        images = grey[block].reshape(len(block), -1).astype(np.float32)
        squared = norms - 2 * images @ reference.T
        squared[block[:, None] == chosen] = np.inf
        nearest = np.argpartition(squared, NEIGHBOUR, axis=1)[:, :NEIGHBOUR]
        usual[block] = np.abs(images[:, None] - reference[nearest]).mean(2).max(1)
    return usual


def _false_share(pairs: np.ndarray, place: np.ndarray, labels: np.ndarray | None) -> float:
    """Share of the pairs with different labels, two deviations less, over the share that random pairs would have."""
    if labels is None or labels.ndim != 1 or not len(pairs):
        return float("nan")
    shares = np.bincount(labels) / len(labels)
    chance = 1 - float((shares**2).sum())
    differ = int((labels[place[pairs[:, 0]]] != labels[place[pairs[:, 1]]]).sum())
    return max(0.0, differ - 2 * differ**0.5) / len(pairs) / chance if chance > 0 else float("nan")
