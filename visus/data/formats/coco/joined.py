"""COCO files of one split joined by image, and splits put one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats.coco.file import id_array, places_of
from visus.data.formats.coco.parts import CocoPart
from visus.data.objects import Objects, Outlines
from visus.data.samples import listed


def joined_parts(parts: Sequence[CocoPart]) -> CocoPart:
    """The files of one split as one. Objects with the same id are one object: keypoints go to the boxes.

    Raises DataError when an id means two image files.
    """
    whole = parts[0]
    for part in parts[1:]:
        whole = _joined(whole, part)
    return whole


def stacked(parts: Sequence[CocoPart], positions: Sequence[np.ndarray]) -> Objects:
    """The objects of all parts in a row, with label k of part p as `positions[p][k]`."""
    stack = [_objects(part, position) for part, position in zip(parts, positions, strict=True)]
    return stack[0] if len(stack) == 1 else _concatenated(stack)


def _objects(part: CocoPart, position: np.ndarray) -> Objects:
    if part.objects is None:
        return _nothing(len(part.names))
    if np.array_equal(position, np.arange(len(position))):
        return part.objects
    return part.objects.relabelled(position)


def _joined(whole: CocoPart, part: CocoPart) -> CocoPart:
    at = places_of(whole.image_ids, part.image_ids)
    clash = [f"{whole.image_ids[w]!r} is {printable(whole.names[w])} and {printable(name)}"
             for w, name in zip(at.tolist(), part.names, strict=True) if w >= 0 and whole.names[w] != name]
    if clash:
        raise DataError(f"ids that are of other images in {printable(whole.path)}: {listed(clash)}", where=part.path,
                        remedy="Files of one split must give each image one id; put others into folders of their own")
    new = np.flatnonzero(at < 0)
    at[new] = len(whole.names) + np.arange(len(new))
    count = len(whole.names) + len(new)
    fresh = new.tolist()

    def filled(old: list | None, other: list | None, empty: object) -> list | None:
        if old is None and other is None:
            return None
        row = list(old) if old is not None else [empty] * len(whole.names)
        row += [empty] * len(fresh)
        if other is not None:
            for place, value in zip(at.tolist(), other, strict=True):
                row[place] = [*row[place], *value] if isinstance(value, list) else value or row[place]
        return row

    ids = whole.image_ids
    if len(new):
        ids = id_array(whole.image_ids.tolist() + part.image_ids[new].tolist())
    known = {category.id for category in whole.categories}
    categories = sorted([*whole.categories, *(c for c in part.categories if c.id not in known)], key=lambda c: c.id)
    place = {category.id: number for number, category in enumerate(categories)}
    moved = [np.array([place[c.id] for c in of.categories], np.int64) for of in (whole, part)]
    return CocoPart(
        whole.path, ids, whole.names + [part.names[i] for i in fresh],
        np.concatenate([whole.sizes, part.sizes[new]]), categories,
        objects=_joined_objects(whole, part, moved, at, count),
        captions=filled(whole.captions, part.captions, []), maps=filled(whole.maps, part.maps, ""),
        segments=filled(whole.segments, part.segments, {}))


def _joined_objects(whole: CocoPart, part: CocoPart, moved: list[np.ndarray], at: np.ndarray, count: int
                    ) -> Objects | None:
    """Objects of both for `count` images; image i of `part` is image at[i]."""
    first = None if whole.objects is None else _objects(whole, moved[0])
    second = None if part.objects is None else _objects(part, moved[1])
    if first is not None:
        longer = np.concatenate([first.start, np.full(count - len(whole.names), first.start[-1])])
        first = replace(first, start=longer)
    if second is None:
        return first
    owner = at[second.image_of]
    if first is None:
        return _regrouped(second, owner, count)
    rest = np.arange(len(second))
    if first.ids is not None and second.ids is not None:
        same = places_of(first.ids, second.ids)
        same[(same >= 0) & (first.image_of[same] != owner)] = -1
        if second.keypoints is not None and (same >= 0).any():
            if first.keypoints is None:
                first = replace(first, keypoints=np.zeros((len(first), len(second.keypoint_names), 3)),
                                keypoint_names=second.keypoint_names, skeleton=second.skeleton)
            if first.keypoint_names == second.keypoint_names and first.keypoints is not None:
                first.keypoints[same[same >= 0]] = second.keypoints[same >= 0]
        rest = np.flatnonzero(same < 0)
    if not len(rest):
        return first
    chosen = second.take(np.arange(len(part.names)))
    both = _concatenated([first, _chosen(chosen, rest)])
    return _regrouped(both, np.concatenate([first.image_of, owner[rest]]), count)


def _chosen(objects: Objects, rest: np.ndarray) -> Objects:
    """Those at `rest`, as the objects of one image."""
    one = replace(objects, start=np.arange(len(objects) + 1, dtype=np.int64)).take(rest)
    return replace(one, start=np.array([0, len(rest)], np.int64))


def _regrouped(objects: Objects, owner: np.ndarray, count: int) -> Objects:
    """The objects in order of the images that own them."""
    order = np.argsort(owner, kind="stable")
    each = replace(objects, start=np.arange(len(objects) + 1, dtype=np.int64)).take(order)
    return replace(each, start=np.searchsorted(owner[order], np.arange(count + 1)).astype(np.int64))


def _concatenated(stack: Sequence[Objects]) -> Objects:
    """The objects of several rows of images, one row after the other."""
    names = next((objects.keypoint_names for objects in stack if objects.keypoints is not None), ())
    skeleton = next((objects.skeleton for objects in stack if objects.keypoints is not None), ())
    if any(objects.keypoints is not None and objects.keypoint_names != names for objects in stack):
        raise DataError("the files name different keypoints", where=" and ".join(", ".join(objects.keypoint_names[:3])
                                                                              for objects in stack),
                        remedy="Read them one by one")
    keypoints = None
    if names:
        keypoints = np.concatenate([np.zeros((len(objects), len(names), 3)) if objects.keypoints is None
                                    else objects.keypoints for objects in stack])
    known = [objects.ids for objects in stack if objects.ids is not None]
    ids = np.concatenate(known) if len(known) == len(stack) else None
    return Objects(
        start=_bounds([objects.start for objects in stack]),
        labels=np.concatenate([objects.labels for objects in stack]),
        boxes=np.concatenate([objects.boxes for objects in stack]),
        crowd=np.concatenate([objects.crowd for objects in stack]),
        difficult=np.concatenate([objects.difficult for objects in stack]),
        outlines=_outlines(stack), keypoints=keypoints, keypoint_names=names, skeleton=skeleton, ids=ids)


def _outlines(stack: Sequence[Objects]) -> Outlines | None:
    if all(objects.outlines is None for objects in stack):
        return None
    rows = [_no_outlines(len(objects)) if objects.outlines is None else objects.outlines for objects in stack]
    runs, first = {}, 0
    for row in rows:
        runs.update({first + m: code for m, code in row.runs.items()})
        first += len(row)
    return Outlines(
        polygons=_bounds([row.polygons for row in rows]), vertices=_bounds([row.vertices for row in rows]),
        points=np.concatenate([row.points for row in rows]), runs=runs)


def _bounds(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Bounds of several rows of ranges -> those of all ranges in a row."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(row) for row in rows]))]).astype(np.int64)


def _no_outlines(count: int) -> Outlines:
    return Outlines(polygons=np.zeros(count + 1, np.int64), vertices=np.zeros(1, np.int64), points=np.empty((0, 2)))


def _nothing(images: int) -> Objects:
    return Objects(start=np.zeros(images + 1, np.int64), labels=np.empty(0, np.int64), boxes=np.empty((0, 4)))
