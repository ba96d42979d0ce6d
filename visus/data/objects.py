"""What can be marked in images beside one label: boxes, outlines, keypoints, label maps.

An index, as `Samples` is: arrays of numbers, and files that are read when their map is asked for. NumPy only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

IGNORED = 255  # the value of a label map where nothing is claimed


@dataclass(frozen=True, eq=False, kw_only=True)
class Runs:
    """A mask coded by run length, as COCO does: column by column, lengths of runs that begin with one of background.

    height, width: pixels. lengths: uint32 [R], which sum to height * width.
    """

    height: int
    width: int
    lengths: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Outlines:
    """The shapes of M objects, each a set of polygons, a run-length code, or nothing.

    polygons: int64 [M + 1]; object m has the polygons [polygons[m], polygons[m + 1]).
    vertices: int64 [R + 1]; polygon r has the points [vertices[r], vertices[r + 1]).
    points: float64 [P, 2], (x, y) in pixels, or in shares of the image's size where the objects are `relative`.
    runs: object -> its mask, for those coded by run length.
    """

    polygons: np.ndarray
    vertices: np.ndarray
    points: np.ndarray
    runs: Mapping[int, Runs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.polygons[0] == 0 and self.polygons[-1] == len(self.vertices) - 1
        assert self.vertices[0] == 0 and self.vertices[-1] == len(self.points)

    def __len__(self) -> int:
        return len(self.polygons) - 1

    def rings(self, m: int) -> list[np.ndarray]:
        """The polygons of object m, each float64 [V, 2]."""
        return [self.points[self.vertices[r]:self.vertices[r + 1]]
                for r in range(int(self.polygons[m]), int(self.polygons[m + 1]))]

    def take(self, objects: np.ndarray) -> Outlines:
        """The outlines of `objects`, in that order."""
        of_object, polygons = _ranges(self.polygons, objects)
        of_polygon, vertices = _ranges(self.vertices, of_object)
        chosen = objects.tolist() if self.runs else ()
        runs = {new: self.runs[old] for new, old in enumerate(chosen) if old in self.runs}
        return Outlines(polygons=polygons, vertices=vertices, points=self.points[of_polygon], runs=runs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """The objects marked in N images, M of them: those of image i are [start[i], start[i + 1]).

    start: int64 [N + 1]. labels: int64 [M], positions in the classes. boxes: float64 [M, 4], x1 y1 x2 y2; the pixel in
    column x covers [x, x + 1]. crowd: bool [M], a box around many objects of the class (COCO's iscrowd). difficult:
    bool [M] (VOC's). outlines: of the M objects, or None. keypoints: float64 [M, P, 3], x, y and 0 not marked, 1
    hidden, 2 seen, or None. keypoint_names: P names. skeleton: pairs of keypoints joined by a line. relative:
    coordinates are shares of the image's width and height (YOLO) and not pixels. ids: int64 [M], what the file calls
    them, or None.
    """

    start: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    difficult: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    outlines: Outlines | None = None
    keypoints: np.ndarray | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    relative: bool = False
    ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        for name in ("crowd", "difficult"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(count, bool))
        assert self.start[0] == 0 and self.start[-1] == count and self.boxes.shape == (count, 4)
        assert len(self.crowd) == len(self.difficult) == count
        assert self.outlines is None or len(self.outlines) == count
        assert self.keypoints is None or self.keypoints.shape == (count, len(self.keypoint_names), 3)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_of(self) -> np.ndarray:
        """int64 [M]: the image of each object."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def presence(self, num_classes: int) -> np.ndarray:
        """float32 [N, K]: 1 where an image holds an object of the class."""
        held = np.zeros((len(self.start) - 1, num_classes), np.float32)
        held[self.image_of, self.labels] = 1
        return held

    def take(self, images: np.ndarray) -> Objects:
        """The objects of `images`, in that order."""
        chosen, start = _ranges(self.start, images)
        return self._of(chosen, start)

    def pick(self, objects: np.ndarray) -> Objects:
        """These objects alone, in that order, which has those of one image together and the images in theirs."""
        counts = np.bincount(self.image_of[objects], minlength=len(self.start) - 1)
        return self._of(np.asarray(objects), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def of(self, image: int, height: int, width: int) -> Objects:
        """The objects of one image (N is 1), in pixels of its `height` and `width`."""
        first, last = int(self.start[image]), int(self.start[image + 1])
        found = self._of(np.arange(first, last), np.array([0, last - first], np.int64))
        if not self.relative:
            return found
        scale = np.array([width, height], np.float64)
        outlines = found.outlines
        if outlines is not None:
            outlines = replace(outlines, points=outlines.points * scale)
        points = found.keypoints
        return replace(found, boxes=found.boxes * np.tile(scale, 2), outlines=outlines, relative=False,
                       keypoints=None if points is None else points * np.array([width, height, 1.0]))

    def relabelled(self, position: np.ndarray) -> Objects:
        """The same objects with label k as label `position[k]`."""
        return replace(self, labels=np.asarray(position, np.int64)[self.labels])

    def _of(self, chosen: np.ndarray, start: np.ndarray) -> Objects:
        return replace(
            self, start=start, labels=self.labels[chosen], boxes=self.boxes[chosen], crowd=self.crowd[chosen],
            difficult=self.difficult[chosen], outlines=None if self.outlines is None else self.outlines.take(chosen),
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
            ids=None if self.ids is None else self.ids[chosen])


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelMaps:
    """One image file per image whose pixels are labels.

    paths: N file names, relative to `root` or absolute; '' where an image has none. table: value in the file -> label;
    -1 for what is to be ignored. colours: the values are R + 256 G + 65536 B of colour files (colour-coded masks and
    COCO's panoptic maps); else grey levels or palette positions. per_image: N tables of its own for each image
    (panoptic: segment -> label), or None.
    """

    paths: tuple[str, ...]
    root: str | None
    table: Mapping[int, int] = field(default_factory=dict)
    colours: bool = False
    per_image: tuple[Mapping[int, int], ...] | None = None

    def path(self, i: int) -> str:
        """The file of the map of image i."""
        return self.paths[i] if self.root is None else os.path.join(self.root, self.paths[i])

    def take(self, images: np.ndarray) -> LabelMaps:
        """The maps of `images`, in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in images),
                       per_image=None if self.per_image is None else tuple(self.per_image[i] for i in images))


def _ranges(bounds: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(all positions in the ranges [bounds[i], bounds[i + 1]) of the `chosen` i, in a row; their new bounds)."""
    counts = bounds[np.asarray(chosen) + 1] - bounds[chosen]
    new = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.repeat(bounds[chosen] - new[:-1], counts) + np.arange(new[-1]), new
