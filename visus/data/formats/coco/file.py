"""What one COCO file holds, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from visus.data.objects import Runs


@dataclass(frozen=True, slots=True)
class Category:
    id: int | str
    name: str
    above: str = ""
    points: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


@dataclass(eq=False)
class CocoFile:
    """N images, their categories, and M annotations of one `kind`: 'objects', 'captions' or 'panoptic'.

    sizes: int64 [N, 2], height and width, 0 where not stated. image_ids, owners, labels, ids: int64, or object where
    ids are texts or large; owners and labels [M] are ids of images and categories. boxes: float64 [M, 4], x y
    width height. rings, lengths, numbers: per chunk of the file, polygons of each annotation, numbers of each polygon,
    all numbers. points: annotation -> its keypoints, float64 [3 P].
    """

    path: str
    kind: str = ""
    image_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: list[str] = field(default_factory=list)
    sizes: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    categories: list[Category] = field(default_factory=list)
    owners: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    crowd: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    rings: list[np.ndarray] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    runs: dict[int, Runs] = field(default_factory=dict)
    points: dict[int, np.ndarray] = field(default_factory=dict)
    captions: list[str] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)
    segments: list[dict[int, Any]] = field(default_factory=list)

    @property
    def has_outlines(self) -> bool:
        return bool(self.runs) or any(len(numbers) for numbers in self.numbers)


def id_array(values: list[Any]) -> np.ndarray:
    try:
        if not values or type(values[0]) is int:
            return np.fromiter(values, np.int64, len(values))
    except OverflowError:
        pass
    array = np.empty(len(values), object)
    array[:] = values
    return array


def places_of(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64: the position of each wanted id among the known ones, which are all different; -1 for those not there."""
    if not len(known) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    if known.dtype == wanted.dtype == np.int64:
        order = np.argsort(known, kind="stable")
        found = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
        return np.where(known[found] == wanted, found, -1)
    position = {value: i for i, value in enumerate(known.tolist())}
    return np.fromiter((position.get(value, -1) for value in wanted.tolist()), np.int64, len(wanted))
