"""Boxes, outlines, masks and keypoints of one image through placements."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from visus.data.masks import mask_runs, runs_box, runs_mask
from visus.data.objects import Objects, Outlines, Runs
from visus.data.transforms.placement import Placement
from visus.data.transforms.warp import moved_labels

_BEND_PX = 4.0  # longest straight piece of an outline that a displacement field bends
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}


class Carried:
    """The objects of an image of `height` x `width` pixels on their way through placements.

    A box is moved by its corners, together with the object's outline where there is one, cut off at the image's edge,
    and made anew from what the move has turned or the edge has cut. Objects that leave the image are dropped, as
    `Placement` says. Keypoints that leave it become not marked.
    """

    def __init__(self, objects: Objects, height: int, width: int):
        self._given = objects
        self._size = (height, width)
        self._kept = np.arange(len(objects))
        self._boxes = np.array(objects.boxes, np.float64)
        self._points = None if objects.keypoints is None else np.array(objects.keypoints, np.float64)
        self._rings: list[list[np.ndarray]] | None = None  # per object, polygons [V, 2]; None: boxes say it all
        self._remade = np.zeros(len(objects), bool)  # boxes that are those of their rings
        self._chain: list[Placement] = []
        self._start = (height, width)

    def boxes(self) -> np.ndarray:
        """float64 [M, 4] of the objects that are left."""
        if self._rings is None or not self._remade.any():
            return self._boxes
        boxes = self._boxes.copy()
        for m in np.flatnonzero(self._remade):
            points = np.concatenate(self._rings[m])
            boxes[m] = [*points.min(0), *points.max(0)]
        return boxes

    def move(self, placement: Placement) -> None:
        """One placement further."""
        if not self._chain:
            self._cut_to_image()
        height, width = placement.height, placement.width
        if self._rings is None and not placement.aligned:
            self._rings = [[_corners(box)] for box in self._boxes]
        moved = placement.forward(self._boxes.reshape(-1, 2, 2)) if placement.aligned else None
        if self._rings is None:
            assert moved is not None
            before = np.concatenate([moved.min(1), moved.max(1)], -1)
            after = before.clip(0, [width, height, width, height])
            shares = _shares(_box_areas(before), _box_areas(after), before, width, height)
            centres = (before[:, :2] + before[:, 2:]) / 2
            self._boxes = after
        else:
            if moved is not None:
                whole = np.concatenate([moved.min(1), moved.max(1)], -1)
                self._boxes = whole.clip(0, [width, height, width, height])
            shares, centres = self._move_rings(placement, moved is None)
        self._move_points(placement)
        self._chain.append(placement)
        self._size = (height, width)
        if placement.by_centre:
            keep = ((centres > 0) & (centres < [width, height])).all(1) & (shares > 0)
        else:
            keep = (shares >= placement.min_visible) & (shares > 0)
        if not keep.all():
            self._keep(keep)

    def objects(self) -> Objects:
        """The objects that are left, in their order, as they lie now."""
        if not self._chain:
            return self._given
        chosen = self._kept
        outlines, masks = self._given.outlines, {}
        if outlines is not None and outlines.runs:
            masks = {m: _moved_mask(outlines.runs[old], self._chain)
                     for m, old in enumerate(chosen.tolist()) if old in outlines.runs}
            for m, mask in masks.items():
                if self._remade[m] and mask.any():
                    self._boxes[m] = runs_box(mask_runs(mask))
                    self._remade[m] = False
            seen = np.array([m not in masks or bool(masks[m].any()) for m in range(len(chosen))], bool)
            if not seen.all():
                masks = {int(seen[:m].sum()): mask for m, mask in masks.items() if seen[m]}
                self._keep(seen)
                chosen = self._kept
        if outlines is not None:
            outlines = self._outlines(outlines, masks)
        given = self._given
        return replace(given, start=np.array([0, len(chosen)], np.int64), labels=given.labels[chosen],
                       boxes=self.boxes(), crowd=given.crowd[chosen], difficult=given.difficult[chosen],
                       outlines=outlines, keypoints=self._points, ids=None if given.ids is None else given.ids[chosen])

    def _cut_to_image(self) -> None:
        """Only what lies in the image counts, from the first move on."""
        height, width = self._size
        limits = np.array([width, height, width, height])
        outside = np.asarray(((self._boxes < 0) | (self._boxes > limits)).any(1))
        self._boxes = self._boxes.clip(0, limits)
        outlines = self._given.outlines
        if outlines is None:
            return
        self._rings = []
        for m in range(len(self._boxes)):
            rings = [_cut(ring, width, height) for ring in outlines.rings(m)]
            rings = [ring for ring in rings if len(ring)]
            self._remade[m] = bool(rings) and bool(outside[m])
            self._rings.append(rings or [_corners(self._boxes[m])])

    def _move_rings(self, placement: Placement, turned: bool) -> tuple[np.ndarray, np.ndarray]:
        """(shares of their areas that stay, centres of their boxes before the cut): float64 [M] and [M, 2]."""
        assert self._rings is not None
        flat = [ring for rings in self._rings for ring in rings]
        if placement.field is not None:
            flat = [_refined(ring) for ring in flat]
        counts = np.array([len(rings) for rings in self._rings], np.int64)
        shares = np.ones(len(counts))
        if not len(counts):
            return shares, np.zeros((0, 2))
        ends = np.cumsum([len(ring) for ring in flat])
        points = placement.forward(np.concatenate(flat))
        first = np.concatenate([[0], ends])[np.cumsum(counts) - counts]  # of each object's points
        low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
        left = iter(np.split(points, ends[:-1]))
        self._rings = [list(islice(left, count)) for count in counts.tolist()]
        limits = np.array([placement.width, placement.height])
        crossing = ((low < 0) | (high > limits)).any(1)
        self._remade |= crossing | turned
        for m in np.flatnonzero(crossing).tolist():
            rings = self._rings[m]
            area = sum(map(_area, rings))
            rings = [ring for ring in (_cut(ring, placement.width, placement.height) for ring in rings) if len(ring)]
            shares[m] = sum(map(_area, rings)) / area if area else float(bool(rings))
            self._rings[m] = rings or [np.zeros((1, 2))]
        return shares, (low + high) / 2

    def _move_points(self, placement: Placement) -> None:
        if self._points is None:
            return
        marked = self._points[..., 2] > 0
        places = placement.forward(self._points[..., :2])
        inside = ((places >= 0) & (places <= [placement.width, placement.height])).all(-1)
        self._points[marked & inside, :2] = places[marked & inside]
        self._points[marked & ~inside] = 0
        if placement.mirrors:
            self._points = self._points[:, mirror_order(self._given.keypoint_names)]

    def _keep(self, keep: np.ndarray) -> None:
        self._kept, self._boxes, self._remade = self._kept[keep], self._boxes[keep], self._remade[keep]
        if self._points is not None:
            self._points = self._points[keep]
        if self._rings is not None:
            self._rings = [rings for rings, kept in zip(self._rings, keep.tolist(), strict=True) if kept]

    def _outlines(self, given: Outlines, masks: dict[int, np.ndarray]) -> Outlines:
        assert self._rings is not None
        rings = [self._rings[m] if m not in masks and given.polygons[old] < given.polygons[old + 1] else []
                 for m, old in enumerate(self._kept.tolist())]
        flat = [ring for of_object in rings for ring in of_object]
        return Outlines(polygons=np.cumsum([0, *map(len, rings)]).astype(np.int64),
                        vertices=np.cumsum([0, *map(len, flat)]).astype(np.int64),
                        points=np.concatenate(flat) if flat else np.empty((0, 2)),
                        runs={m: mask_runs(mask) for m, mask in masks.items()})


def mirror_order(names: tuple[str, ...]) -> list[int]:
    """For each keypoint the position of its counterpart of the other side, by its name: left_eye and right_eye, LHand
    and RHand, ear-l and ear-r. A name without one stays."""
    position = {name: i for i, name in enumerate(names)}
    return [position.get(_other_side(name), i) for i, name in enumerate(names)]


def _other_side(name: str) -> str:
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^A-Za-z]+", name)
    if not any(word.lower() in ("left", "right") for word in words):
        lowered = [word.lower() in _SIDES for word in words]
    else:
        lowered = [word.lower() in ("left", "right") for word in words]
    out = []
    for word, side in zip(words, lowered, strict=True):
        other = _SIDES[word.lower()] if side else word
        out.append(other if not side or word.islower() else other.upper() if word.isupper() else other.capitalize())
    return "".join(out)


def _corners(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box.tolist()
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _cut(ring: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of a polygon [V, 2] inside the image, edge by edge of it (Sutherland and Hodgman 1974); [0, 2] for none.
    Of a polygon that falls apart the pieces stay joined along the edge."""
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -float(width)), (1, 1, 0.0), (1, -1, -float(height))):
        over = sign * ring[:, axis] - limit  # >= 0: inside
        inside = over >= 0
        if inside.all():
            continue
        if not inside.any():
            return ring[:0]
        ahead, over_ahead, inside_ahead = np.roll(ring, -1, 0), np.roll(over, -1), np.roll(inside, -1)
        crossing = inside != inside_ahead
        share = over / np.where(crossing, over - over_ahead, 1)
        between = ring + share[:, None] * (ahead - ring)
        between[:, axis] = sign * limit + 0.0
        both = np.stack([ring, between], 1).reshape(-1, 2)
        ring = both[np.stack([inside, crossing], 1).reshape(-1)]
    return ring


def _refined(ring: np.ndarray) -> np.ndarray:
    """The polygon with points on its sides, so that no piece is longer than 4 pixels."""
    ahead = np.roll(ring, -1, 0)
    pieces = np.maximum(1, np.ceil(np.sqrt(((ahead - ring) ** 2).sum(1)) / _BEND_PX)).astype(np.int64)
    first = np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (np.arange(pieces.sum()) - first) / np.repeat(pieces, pieces)
    return np.repeat(ring, pieces, 0) + share[:, None] * np.repeat(ahead - ring, pieces, 0)


def _area(ring: np.ndarray) -> float:
    x, y = (ring - ring[:1]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _box_areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _shares(before: np.ndarray, after: np.ndarray, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Shares of the areas that stay; of boxes without area, 1 where they touch the image."""
    touch = ((boxes[:, :2] <= [width, height]) & (boxes[:, 2:] >= 0)).all(1)
    return np.where(before > 0, after / np.where(before > 0, before, 1), touch)


def _moved_mask(runs: Runs, chain: list[Placement]) -> np.ndarray:
    """bool [h, w]. As an outline does, a mask ends at the image's edge, whatever is shown beyond it."""
    chain = [replace(placement, outside="fill") for placement in chain]
    mask = torch.from_numpy(np.ascontiguousarray(runs_mask(runs)).astype(np.uint8))
    return (moved_labels(mask, chain) == 1).numpy()
