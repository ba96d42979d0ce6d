"""Outlines as COCO states them: polygons, and run-length codes as lists or text; and their order by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from visus.core.images import MAX_PIXELS
from visus.data.masks import runs_of_lengths, runs_of_text
from visus.data.objects import Outlines, Runs
from visus.data.reading.polygon_text import Shapes


def read_runs(code: dict[str, Any]) -> Runs:
    """{'size': [height, width], 'counts': lengths or text} -> Runs. Raises ValueError saying what is wrong."""
    size, counts = code.get("size"), code.get("counts")
    if type(size) is not list or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise ValueError("'size' is not [height, width]")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels")
    if type(counts) is str:
        return runs_of_text(counts, *size)
    return runs_of_lengths(counts, *size)


def read_polygons(stated: list[Any], shapes: Shapes | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """The 'segmentation' of n records: (int64 [n], polygons of each; int64 [R], numbers of each polygon; float64, all
    numbers; positions of those that are neither polygons nor a code nor nothing). shapes: see `Chunk`."""
    lists = [at for at, value in enumerate(stated) if value and type(value) is not dict
             and not (shapes is not None and type(value) is float)]
    rings = np.zeros(len(stated), np.int64)
    if shapes is not None:
        taken = [at for at, value in enumerate(stated) if type(value) is float]
        rings[taken] = shapes.rings
        if not lists:
            return rings, shapes.lengths, shapes.numbers, []
    bounds = np.concatenate([[0], np.cumsum(rings)])
    ends = np.concatenate([[0], np.cumsum(shapes.lengths)]) if shapes is not None else np.zeros(1, np.int64)
    parts: list[np.ndarray] = []
    wrong = []
    for at, value in enumerate(stated):
        if rings[at] and shapes is not None:
            parts += [shapes.numbers[ends[r]:ends[r + 1]] for r in range(bounds[at], bounds[at + 1])]
        elif not value or type(value) is dict:
            continue
        elif type(value) is list and all(type(ring) is list and all(
                type(v) in (int, float) and abs(v) < 1e15 for v in ring) for ring in value):
            parts += [np.array(ring, np.float64) for ring in value]
            rings[at] = len(value)
        else:
            wrong.append(at)
    lengths = np.array([len(part) for part in parts], np.int64)
    return rings, lengths, np.concatenate([np.empty(0), *parts]), wrong


def ordered_outlines(rings: list[np.ndarray], lengths: list[np.ndarray], numbers: list[np.ndarray],
                     runs: Mapping[int, Runs], order: np.ndarray) -> Outlines:
    """The outlines of the annotations `order`, from those of all M in parts: per part polygons of each, numbers of
    each polygon, and all numbers. The parts of `numbers` are given free one by one."""
    per_part = [len(part) for part in rings]
    of_each, of_polygon = np.concatenate(rings), np.concatenate(lengths)
    polygon_bounds, number_bounds = _bounds(of_each), _bounds(of_polygon)
    first_number = number_bounds[polygon_bounds]  # [M + 1]
    size = np.diff(first_number)
    target = np.full(len(of_each), -1, np.int64)
    target[order] = _bounds(size[order])[:-1]
    values = np.empty(int(size[order].sum()))
    start = 0
    for part, count in enumerate(per_part):
        whole = numbers[part]
        numbers[part] = np.empty(0)
        bounds = (first_number[start:start + count + 1] - first_number[start]).tolist()
        into = target[start:start + count].tolist()
        for place, first, last in zip(into, bounds[:-1], bounds[1:], strict=True):
            if place >= 0:
                values[place:place + last - first] = whole[first:last]
        start += count
    polygons = _bounds(of_each[order])
    chosen_polygons = np.repeat(polygon_bounds[:-1][order] - polygons[:-1], of_each[order]) + np.arange(polygons[-1])
    new = {int(old): place for place, old in enumerate(order.tolist()) if old in runs} if runs else {}
    return Outlines(polygons=polygons, vertices=_bounds(of_polygon[chosen_polygons] // 2), points=values.reshape(-1, 2),
                    runs={place: runs[old] for old, place in new.items()})


def _bounds(counts: np.ndarray) -> np.ndarray:
    """int64 [n + 1]: 0 and the running sums."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
