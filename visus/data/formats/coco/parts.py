"""The columns of one COCO file, put in order by image: objects with boxes in corners, captions, label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats.coco.file import Category, CocoFile, id_array, places_of
from visus.data.formats.coco.outlines import ordered_outlines
from visus.data.objects import Objects
from visus.data.reading.problems import Problems
from visus.data.samples import counted

_FEW_EMPTY = 1000  # so many boxes to an empty one, and it is left out: large published sets have a few
_SWAPPED_SHARE = 0.2


@dataclass(eq=False)
class CocoPart:
    """N images of one file and what it says of them. objects: labels are positions in `categories`, sorted by id.

    captions: N lists, or None. maps: N names of files, '' for none, and segments: N of {segment -> position in the
    categories}; or None.
    """

    path: str
    image_ids: np.ndarray
    names: list[str]
    sizes: np.ndarray
    categories: list[Category]
    objects: Objects | None = None
    captions: list[list[str]] | None = None
    maps: list[str] | None = None
    segments: list[dict[int, int]] | None = None
    notes: tuple[str, ...] = ()


def ordered(file: CocoFile) -> CocoPart:
    """Raises DataError: ids that point nowhere, boxes beyond their image, codes of another size, wrong keypoints: all
    counted, the first ten named."""
    problems = Problems(file.path)
    categories = _sorted_categories(file, problems)
    owner = places_of(file.image_ids, file.owners)
    lost = np.flatnonzero(owner < 0)
    hint = _types_differ(file.image_ids, file.owners)
    problems.add("annotations whose 'image_id' is that of no image" + hint, [
        f"annotations[{m}] (image_id {printable(repr(file.owners[m:m + 1].tolist()[0]))})" for m in lost.tolist()],
        "Give the id of one of the images")
    part = CocoPart(file.path, file.image_ids, file.names, file.sizes, categories)
    if file.kind == "captions":
        problems.refuse()
        part.captions = [[] for _ in file.names]
        for image, caption in zip(owner.tolist(), file.captions, strict=True):
            part.captions[image].append(caption)
    elif file.kind == "panoptic":
        _add_maps(part, file, owner, problems)
    else:
        _add_objects(part, file, owner, problems)
    return part


def _sorted_categories(file: CocoFile, problems: Problems) -> list[Category]:
    kinds = {type(category.id) for category in file.categories}
    if len(kinds) > 1:
        problems.add("categories whose 'id' is a text where others are numbers", [
            repr(c.id) for c in file.categories if type(c.id) is str], "Give whole numbers, or texts throughout")
        problems.refuse()
    times = Counter(category.id for category in file.categories)
    problems.add("ids that several of the categories share", [repr(number) for number, count in times.items()
                                                              if count > 1], "Give each category its own")
    problems.refuse()
    return sorted(file.categories, key=lambda category: category.id)


def _add_maps(part: CocoPart, file: CocoFile, owner: np.ndarray, problems: Problems) -> None:
    position = {category.id: place for place, category in enumerate(part.categories)}
    unknown = [f"annotations[{m}] (category_id {printable(repr(label))})" for m, table in enumerate(file.segments)
               for label in table.values() if label not in position]
    problems.add("segments whose 'category_id' is that of no category", unknown, "Give the id of a category")
    images, counts = np.unique(owner, return_counts=True)
    problems.add("images with several annotations of segments", [
        f"images[{image}]" for image in images[counts > 1].tolist()], "Give one map of segments per image")
    problems.refuse()
    part.maps = [""] * len(file.names)
    part.segments = [{} for _ in file.names]
    for image, name, table in zip(owner.tolist(), file.maps, file.segments, strict=True):
        part.maps[image] = name
        part.segments[image] = {segment: position[label] for segment, label in table.items()}


def _add_objects(part: CocoPart, file: CocoFile, owner: np.ndarray, problems: Problems) -> None:
    def record(m: int) -> str:
        return f"annotations[{m}] (id {printable(str(file.ids[m]))[:40]})"

    known = id_array([category.id for category in part.categories])
    label = places_of(known, file.labels)
    lost = np.flatnonzero(label < 0).tolist()
    problems.add("annotations whose 'category_id' is that of no category" + _types_differ(known, file.labels), [
        f"annotations[{m}] (category_id {printable(repr(file.labels[m:m + 1].tolist()[0]))})" for m in lost],
        "Give the id of one of the categories")
    problems.refuse()
    notes: list[str] = []
    size = file.sizes[owner]  # [M, 2]
    boxes, clipped = _corners(file.path, file.boxes, size)
    if clipped:
        notes.append(f"{counted(clipped, 'box')} reached beyond the image and were clipped to it" if clipped > 1 else
                     "1 box reached beyond the image and was clipped to it")
    empty = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    count = int(empty.sum())
    if count * _FEW_EMPTY > len(boxes):
        problems.add("annotations whose 'bbox' has no width or no height within the image", [
            f"{record(m)}: {file.boxes[m].tolist()}" for m in np.flatnonzero(empty).tolist()],
            "Remove them, or put them right")
    elif count:
        notes.append(f"{counted(count, 'box')} of no width or height left out")
    other = [m for m, runs in file.runs.items() if size[m].all() and (runs.height, runs.width) != tuple(size[m])]
    problems.add("annotations whose run-length code is of another size than their image", [
        f"{record(m)}: {[file.runs[m].height, file.runs[m].width]} and not {size[m].tolist()}" for m in other],
        "'size' is [height, width] of the image")
    names, skeleton, wrong = _keypoint_names(file, part.categories)
    problems.add(f"annotations with another number of keypoints than {len(names)}, three numbers each",
                 [record(m) for m in wrong], "Give as many as the category names")
    problems.refuse()
    order = np.argsort(owner, kind="stable")
    order = order[~empty[order]]
    rank = np.full(len(owner), -1, np.int64)
    rank[order] = np.arange(len(order))
    outlines = ordered_outlines(file.rings, file.lengths, file.numbers, file.runs, order) if file.has_outlines else None
    start = np.searchsorted(owner[order], np.arange(len(file.names) + 1)).astype(np.int64)
    part.objects = Objects(
        start=start, labels=label[order], boxes=boxes[order], crowd=file.crowd[order], outlines=outlines,
        keypoints=_keypoints(file, rank, len(order), len(names)) if names else None, keypoint_names=names,
        skeleton=skeleton, ids=file.ids[order] if file.ids.dtype == np.int64 else None)
    part.notes = tuple(notes)


def _corners(path: str, boxes: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, int]:
    """([M, 4] x y width height -> x1 y1 x2 y2 within the image where its size [M, 2] is stated, how many were not)."""
    corners = boxes.copy()
    corners[:, 2:] += boxes[:, :2]
    width, height = size[:, 1], size[:, 0]
    stated = (width > 0) & (height > 0)
    beyond = stated & ((corners[:, 2] > width + 1) | (corners[:, 3] > height + 1))
    fit = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] <= width + 1)
           & (boxes[:, 3] <= height + 1))
    swapped = int((beyond & fit).sum())
    if swapped > _SWAPPED_SHARE * len(boxes):
        first = int(np.flatnonzero(beyond & fit)[0])
        raise DataError(
            f"{swapped:,} of {counted(len(boxes), 'box')} reach beyond their image as [x, y, width, height] and fit as "
            f"[x1, y1, x2, y2], such as {boxes[first].tolist()} in annotations[{first}]", where=path,
            remedy="COCO's 'bbox' is [x, y, width, height]: write width = x2 - x1 and height = y2 - y1")
    limit = np.where(stated[:, None], np.stack([width, height, width, height], 1), np.inf)
    low = np.where(stated, 0.0, -np.inf)[:, None]
    within = np.clip(corners, low, limit)
    return within, int((abs(within - corners) > 1e-3).any(1).sum())


def _keypoint_names(file: CocoFile, categories: Sequence[Category]
                    ) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], list[int]]:
    """(names, skeleton, annotations with another number of keypoints)."""
    kinds = {category.points: category.skeleton for category in categories if category.points}
    if len(kinds) > 1:
        raise DataError("the categories have different keypoints: " + " and ".join(
            str(len(points)) for points in list(kinds)[:4]), where=file.path,
            remedy="Divide the file: one with the annotations of each kind of keypoints")
    if not file.points:
        return (), (), []
    longest = max(map(len, file.points.values())) // 3
    names, skeleton = next(iter(kinds.items()), (tuple(f"point{number + 1}" for number in range(longest)), ()))
    return names, skeleton, [m for m, values in file.points.items() if len(values) != 3 * len(names)]


def _keypoints(file: CocoFile, rank: np.ndarray, count: int, points: int) -> np.ndarray:
    """float64 [count, P, 3]."""
    found = np.zeros((count, points, 3))
    marked = np.fromiter(file.points, np.int64, len(file.points))
    kept = np.flatnonzero(rank[marked] >= 0)
    values = list(file.points.values())
    for first in range(0, len(kept), 4096):
        some = kept[first:first + 4096]
        found[rank[marked[some]]] = np.stack([values[i] for i in some.tolist()]).reshape(-1, points, 3)
    return found


def _types_differ(known: np.ndarray, wanted: np.ndarray) -> str:
    if not len(known) or not len(wanted) or type(known[0]) is type(wanted[0]):
        return ""
    texts = isinstance(wanted[0], str)
    if texts == isinstance(known[0], str):
        return ""
    return f" ({'texts' if texts else 'numbers'} here, {'numbers' if texts else 'texts'} there)"
