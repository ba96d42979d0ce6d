"""One COCO file as columns: its images, its categories, and its annotations of one kind, checked record by record."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats.coco.file import Category, CocoFile, id_array
from visus.data.formats.coco.outlines import read_polygons, read_runs
from visus.data.reading.annotation_json import Chunk, read_chunks
from visus.data.reading.problems import Problems, record_name
from visus.data.samples import listed

SECTIONS = ("images", "annotations", "categories")
_REQUIRED = {"objects": ("id", "image_id", "category_id", "bbox"), "captions": ("id", "image_id", "caption"),
             "panoptic": ("image_id", "file_name", "segments_info")}


def read_coco_file(path: str, progress: Callable[[int, int], None] | None = None) -> CocoFile:
    """Raises DataError as `read_chunks`, for missing lists, and for bad records: all counted, the first ten named."""
    reading = _Reading(path)
    seen: set[str] = set()
    collects = gc.isenabled()
    gc.disable()  # records do not refer to themselves, and looking for such costs half of the time
    try:
        for chunk in read_chunks(path, SECTIONS, progress):
            seen.add(chunk.section)
            getattr(reading, "_" + chunk.section)(chunk)
    finally:
        if collects:
            gc.enable()
    _refuse_missing_lists(path, seen, reading.file.kind)
    return reading.finished()


def _refuse_missing_lists(path: str, seen: set[str], kind: str) -> None:
    needed = ("images", "annotations") if kind == "captions" else SECTIONS
    missing = [repr(name) for name in needed if name not in seen]
    if missing:
        raise DataError(f"expected the {'key' if len(missing) == 1 else 'keys'} {listed(missing)} at the top level",
                        where=path, remedy="Is this COCO? LVIS, CreateML and results of a detector have other keys")


class _Reading:
    def __init__(self, path: str):
        self.file = CocoFile(path)
        self.problems = Problems(path)
        self.columns: dict[str, list[Any]] = {name: [] for name in (
            "image_ids", "sizes", "owners", "ids", "labels", "boxes", "crowd")}
        self.count = 0
        self.id_types: dict[tuple[str, str], type] = {}

    def finished(self) -> CocoFile:
        file = self.file
        for name, parts in self.columns.items():
            if parts:
                setattr(file, name, np.concatenate(parts))
            parts.clear()
        _refuse_repeated(self.problems, "images", file.image_ids, "id")
        _refuse_repeated(self.problems, "images", np.array(file.names, object), "file_name")
        _refuse_repeated(self.problems, "annotations", file.ids, "id")
        self.problems.refuse()
        return file

    def _images(self, chunk: Chunk) -> None:
        records = self._complete(chunk, ("id", "file_name"))
        self.columns["image_ids"].append(self._ids(chunk, [r["id"] for _, r in records], "id", records))
        self.file.names += [str(r["file_name"]) for _, r in records]
        self._refuse("images with a 'file_name' that is no text", chunk, [
            at for at, r in records if type(r["file_name"]) is not str or not r["file_name"]], "Give a relative path")
        sizes = [(r.get("height"), r.get("width")) for _, r in records]
        bad = [at for (at, _), pair in zip(records, sizes, strict=True) if not all(map(_is_side, pair))]
        self._refuse("images with a 'height' or 'width' that is no number of pixels", chunk, bad, "Give whole numbers")
        if not bad:
            self.columns["sizes"].append(np.array([(h or 0, w or 0) for h, w in sizes], np.int64).reshape(-1, 2))

    def _categories(self, chunk: Chunk) -> None:
        for at, r in self._complete(chunk, ("id", "name")):
            if type(r["id"]) not in (int, str) or type(r["name"]) is not str or not r["name"].strip():
                self._refuse("categories with an id or a name that cannot be used", chunk, [at],
                             "Give a whole number and a text")
                continue
            points, skeleton = r.get("keypoints") or [], r.get("skeleton") or []
            pairs_fit = type(points) is list and type(skeleton) is list and all(type(p) is str for p in points) and all(
                type(pair) is list and len(pair) == 2 and all(type(p) is int and 1 <= p <= len(points) for p in pair)
                for pair in skeleton)
            if not pairs_fit:
                self._refuse("categories with wrong 'keypoints' or 'skeleton'", chunk, [at],
                             "Give names, and pairs of their numbers from 1 on")
                continue
            self.file.categories.append(Category(r["id"], r["name"], str(r.get("supercategory") or ""), tuple(points),
                                                 tuple((a - 1, b - 1) for a, b in skeleton)))

    def _annotations(self, chunk: Chunk) -> None:
        if not self.file.kind and chunk.records and type(chunk.records[0]) is dict:
            first = chunk.records[0]
            self.file.kind = ("panoptic" if "segments_info" in first else
                              "captions" if "caption" in first and "bbox" not in first else "objects")
        kind = self.file.kind or "objects"
        records = self._complete(chunk, _REQUIRED[kind])
        whole = len(records) == len(chunk.records)
        self.columns["owners"].append(self._ids(chunk, [r["image_id"] for _, r in records], "image_id", records))
        if kind != "panoptic":
            self.columns["ids"].append(self._ids(chunk, [r["id"] for _, r in records], "id", records))
        if kind == "captions":
            self._refuse("captions other than text", chunk, [at for at, r in records if type(r["caption"]) is not str],
                         "Give texts")
            self.file.captions += [r["caption"] for _, r in records]
        elif kind == "panoptic":
            self._panoptic(chunk, records)
        else:
            self.columns["labels"].append(self._ids(chunk, [r["category_id"] for _, r in records], "category_id",
                                                    records))
            self._boxes(chunk, records)
            if whole:
                self._outlines(chunk)
            self._keypoints(chunk, records)
        self.count += len(records)

    def _panoptic(self, chunk: Chunk, records: list[tuple[int, dict[str, Any]]]) -> None:
        bad = []
        for at, r in records:
            segments = r["segments_info"]
            fits = type(r["file_name"]) is str and type(segments) is list and all(
                type(s) is dict and type(s.get("id")) is int and 0 < s["id"] < 1 << 24
                and type(s.get("category_id")) in (int, str) for s in segments)
            if not fits:
                bad.append(at)
                continue
            self.file.maps.append(r["file_name"])
            self.file.segments.append({s["id"]: s["category_id"] for s in segments})
        self._refuse("annotations with wrong 'segments_info' or 'file_name'", chunk, bad,
                     "Each segment needs an 'id' from 1 to 16777215 and a 'category_id'")

    def _boxes(self, chunk: Chunk, records: list[tuple[int, dict[str, Any]]]) -> None:
        lists = [r["bbox"] for _, r in records]
        remedy = "Give [x, y, width, height] in pixels"
        fits = set(map(type, lists)) <= {list} and set(map(len, lists)) <= {4}
        flat = list(chain.from_iterable(lists)) if fits else []
        if not fits or not set(map(type, flat)) <= {int, float}:
            bad = [at for at, r in records if type(r["bbox"]) is not list or len(r["bbox"]) != 4
                   or not all(type(v) in (int, float) for v in r["bbox"])]
            self._refuse("annotations whose 'bbox' is not four numbers", chunk, bad, remedy)
            return
        try:
            boxes = np.array(flat, np.float64).reshape(-1, 4)
        except OverflowError:  # a whole number that no float can hold
            boxes = np.array([math.inf if abs(v) >= 1e300 else v for v in flat], np.float64).reshape(-1, 4)
        wrong = ~np.isfinite(boxes).all(1) | (boxes[:, 2:] < 0).any(1)
        self._refuse("annotations whose 'bbox' has a negative or infinite size", chunk,
                     [records[i][0] for i in np.flatnonzero(wrong).tolist()], remedy)
        self.columns["boxes"].append(boxes)
        crowd = [r.get("iscrowd", 0) for _, r in records]
        self._refuse("annotations whose 'iscrowd' is neither 0 nor 1", chunk, [
            at for (at, _), value in zip(records, crowd, strict=True) if value not in (0, 1)]
            if not _are_marks(crowd) else [], "Give 0 or 1")
        self.columns["crowd"].append(np.array([value == 1 for value in crowd], bool))

    def _outlines(self, chunk: Chunk) -> None:
        stated = [r.get("segmentation") for r in chunk.records]
        coded = [at for at, value in enumerate(stated) if type(value) is dict]
        bad: dict[str, list[int]] = {}
        for at in coded:
            try:
                self.file.runs[self.count + at] = read_runs(stated[at])
            except ValueError as error:
                bad.setdefault(str(error), []).append(at)
        for problem, places in bad.items():
            self._refuse(f"annotations whose run-length code is wrong ({problem})", chunk, places,
                         "Write the mask again")
        rings, lengths, numbers, wrong = read_polygons(stated, chunk.shapes)
        short = np.flatnonzero((lengths < 6) | (lengths % 2 == 1))
        of_ring = np.repeat(np.arange(len(rings)), rings)
        self._refuse("annotations with a polygon of fewer than three points or an odd count of numbers", chunk,
                     np.unique(of_ring[short]).tolist(), "Give [x1, y1, x2, y2, x3, y3, ...]")
        if not np.isfinite(numbers).all():
            of_number = np.repeat(of_ring, lengths)
            wrong += np.unique(of_number[~np.isfinite(numbers)]).tolist()
        self._refuse("annotations whose 'segmentation' is no list of polygons and no run-length code", chunk, wrong,
                     "Give [[x1, y1, x2, y2, ...], ...] or {'size': [height, width], 'counts': ...}")
        self.file.rings.append(rings)
        self.file.lengths.append(lengths)
        self.file.numbers.append(numbers)

    def _keypoints(self, chunk: Chunk, records: list[tuple[int, dict[str, Any]]]) -> None:
        bad = []
        for i, at, values in [(i, at, r["keypoints"]) for i, (at, r) in enumerate(records) if "keypoints" in r]:
            if not values:
                continue
            fits = type(values) is list and len(values) % 3 == 0 and all(
                type(v) in (int, float) and abs(v) < 1e15 for v in values) and set(values[2::3]) <= {0, 1, 2}
            if fits:
                self.file.points[self.count + i] = np.array(values, np.float64)
            else:
                bad.append(at)
        self._refuse("annotations whose 'keypoints' are no triples x, y, visibility (0, 1 or 2)", chunk, bad,
                     "Give three numbers per keypoint")

    def _complete(self, chunk: Chunk, keys: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
        """(position in the chunk, record) of the records that have all keys."""
        if set(map(type, chunk.records)) <= {dict} and all(map(frozenset(keys).issubset, chunk.records)):
            return list(enumerate(chunk.records))
        found, missing = [], dict[str, list[int]]()
        for at, record in enumerate(chunk.records):
            if type(record) is not dict:
                missing.setdefault("without braces", []).append(at)
                continue
            lacks = [key for key in keys if key not in record]
            if lacks:
                missing.setdefault("without " + " and ".join(map(repr, lacks)), []).append(at)
            else:
                found.append((at, record))
        for what, places in missing.items():
            lvis = chunk.section == "images" and any(
                type(chunk.records[at]) is dict and "coco_url" in chunk.records[at] for at in places)
            self._refuse(f"{chunk.section} {what}", chunk, places, "Is this LVIS? Give each image a 'file_name'" if lvis
                         else "Is this COCO? Each of these records needs " + ", ".join(map(repr, keys)))
        return found

    def _ids(self, chunk: Chunk, values: list[Any], key: str, records: list[tuple[int, dict[str, Any]]]) -> np.ndarray:
        if not values:
            return np.empty(0, np.int64)
        first = self.id_types.setdefault((chunk.section, key), type(values[0]))
        if first not in (int, str) or set(map(type, values)) != {first}:
            bad = [at for (at, _), value in zip(records, values, strict=True)
                   if type(value) is not first or first not in (int, str)]
            mixed = all(type(value) in (int, str) for value in values)
            self._refuse(f"{chunk.section} whose {key!r} is "
                         + ("of another kind, number or text, than that of the first" if mixed else
                            "no whole number and no text"), chunk, bad, "Give whole numbers, or texts throughout")
            return np.empty(0, np.int64)
        return id_array(values)

    def _refuse(self, kind: str, chunk: Chunk, places: Sequence[int], remedy: str) -> None:
        if len(places):
            self.problems.add(kind, [record_name(chunk.section, chunk.first + at, chunk.records[at])
                                     for at in places], remedy)


def _refuse_repeated(problems: Problems, section: str, values: np.ndarray, key: str) -> None:
    if values.dtype == np.int64:
        known, counts = np.unique(values, return_counts=True)
        twice = known[counts > 1].tolist()
    else:
        twice = [value for value, count in Counter(values.tolist()).items() if count > 1]
    problems.add(f"{key}s that several of the {section} share", [printable(repr(value)) for value in twice],
                 f"Give each of the {section} its own")


def _is_side(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**31
                             and value == int(value))


def _are_marks(values: list[Any]) -> bool:
    try:
        return set(values) <= {0, 1}
    except TypeError:
        return False
