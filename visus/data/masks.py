"""Masks of objects: polygons and COCO's run-length codes to pixels and back. NumPy only.

A mask is bool [H, W]. Its run-length code goes down the columns, from left to right, and begins with a run of
background, which may be empty. Pixels are those of COCO's own tools (github.com/cocodataset/cocoapi, common/maskApi.c):
a polygon is sampled on a grid five times as fine, and column k of pixels belongs to it where a line along the middle of
the column lies inside, by the even-odd rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visus.core.errors import DataError
from visus.core.images import MAX_PIXELS
from visus.data.objects import Objects, Runs

_MAX_BYTES = 8 << 30  # of the masks of one image
_MAX_POINT = 2**31 / 5 - 1  # pixels; beyond it a grid five times as fine leaves 32 bits
_FINE = 5
_FIRST, _BITS = 48, 5  # of the text form: characters from '0' on, 5 bits each, 1 for more to come
_MAX_CHARACTERS = 7  # of one number: a run length has 32 bits


def object_masks(objects: Objects, height: int, width: int) -> np.ndarray:
    """The masks of the n objects of one image: bool [n, H, W]; empty for an object without an outline.

    objects: in pixels (`Objects.of`). Raises DataError when a run-length code is not of this size or all is too large.
    """
    assert not objects.relative, "coordinates must be pixels"
    _check_size(height, width, len(objects))
    masks = np.zeros((len(objects), height, width), bool)
    outlines = objects.outlines
    if outlines is None:
        return masks
    of_ring = np.repeat(np.arange(len(objects)), np.diff(outlines.polygons))
    _fill(masks, of_ring, outlines.vertices, outlines.points)
    for m, runs in outlines.runs.items():
        if (runs.height, runs.width) != (height, width):
            raise DataError(f"a mask is coded for {runs.width} x {runs.height} pixels, the image has {width} x "
                            f"{height}", where=f"object {m}", remedy="Put the size in the annotations right")
        masks[m] |= runs_mask(runs)
    return masks


def polygons_mask(rings: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels within any of the polygons, each [V, 2] of (x, y) in pixels: bool [H, W]. Raises DataError: size."""
    _check_size(height, width, 1)
    masks = np.zeros((1, height, width), bool)
    vertices = np.concatenate([[0], np.cumsum([len(ring) for ring in rings], dtype=np.int64)]).astype(np.int64)
    points = np.concatenate([np.empty((0, 2)), *rings])
    _fill(masks, np.zeros(len(rings), np.int64), vertices, points)
    return masks[0]


def runs_mask(runs: Runs) -> np.ndarray:
    """bool [H, W]."""
    _check_size(runs.height, runs.width, 1)
    values = (np.arange(len(runs.lengths)) % 2).astype(bool)
    return np.repeat(values, runs.lengths).reshape(runs.width, runs.height).T


def mask_runs(mask: np.ndarray) -> Runs:
    """The code of a mask [H, W] of any type, where what is not 0 belongs to it. It is the shortest there is."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if len(flat) and flat[0] else [0]
    return Runs(height=height, width=width,
                lengths=np.diff(np.concatenate([first, changes, [len(flat)]])).astype(np.uint32))


def runs_area(runs: Runs) -> int:
    """How many pixels the mask has."""
    return int(runs.lengths[1::2].sum(dtype=np.int64))


def runs_box(runs: Runs) -> np.ndarray:
    """float64 [4], x1 y1 x2 y2 around the mask in pixels; zeros when it is empty."""
    ends = np.cumsum(runs.lengths, dtype=np.int64)
    ends = ends[:len(ends) // 2 * 2].reshape(-1, 2)
    first, last = ends[ends[:, 0] < ends[:, 1]].T
    if not len(first):
        return np.zeros(4)
    last = last - 1
    top, bottom = (first % runs.height).min(), (last % runs.height).max()
    if (first // runs.height != last // runs.height).any():  # a run that goes on at the top of the next column
        top, bottom = 0, runs.height - 1
    return np.array([first[0] // runs.height, top, last[-1] // runs.height + 1, bottom + 1], np.float64)


def runs_of_lengths(lengths: object, height: int, width: int) -> Runs:
    """Lengths as a file states them -> Runs. Raises ValueError saying what is wrong: not whole numbers of 0 or more, a
    sum that is not height * width."""
    if not isinstance(lengths, list | tuple | np.ndarray) or not len(lengths):
        raise ValueError("the lengths of runs are no list of numbers")
    if not isinstance(lengths, np.ndarray) and not all(type(n) is int and 0 <= n < 2**32 for n in lengths):
        raise ValueError("a length of a run is no whole number from 0 to 4294967295")
    numbers = np.asarray(lengths, np.int64)
    if (numbers < 0).any() or (numbers >= 2**32).any():
        raise ValueError("a length of a run is no whole number from 0 to 4294967295")
    total = int(numbers.sum())
    if total != height * width:
        raise ValueError(f"the runs cover {total} pixels and not {width} x {height} = {height * width}")
    return Runs(height=height, width=width, lengths=numbers.astype(np.uint32))


def runs_of_text(text: str | bytes, height: int, width: int) -> Runs:
    """COCO's compressed code -> Runs. Raises ValueError as `runs_of_lengths`, and for characters that are none of it.

    Each number is cut into groups of 5 bits, lowest first, the last of which has the sign; from the fourth on the
    difference from the number two before is written.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - _FIRST
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        raise ValueError("the code of runs is empty or has a character that does not belong to it")
    last = codes & 0x20 == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    if not last[-1] or (ends - starts >= _MAX_CHARACTERS).any():
        raise ValueError("the code of runs is cut off or damaged")
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 0x1f) << _BITS * place, starts)
    numbers -= np.where(codes[ends] & 0x10, np.int64(1) << _BITS * (ends - starts + 1), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return runs_of_lengths(numbers, height, width)


def runs_text(runs: Runs) -> str:
    """COCO's compressed code, the inverse of `runs_of_text`."""
    numbers = runs.lengths.astype(np.int64)
    numbers[3:] -= runs.lengths[1:-2].astype(np.int64)
    places = numbers[:, None] >> _BITS * np.arange(_MAX_CHARACTERS)
    codes, rest = places & 0x1f, places >> _BITS
    ended = rest == np.where(codes & 0x10, -1, 0)
    count = ended.argmax(1)[:, None]
    column = np.arange(_MAX_CHARACTERS)
    codes = codes + np.where(column < count, 0x20, 0) + _FIRST
    return codes[column <= count].astype(np.uint8).tobytes().decode("ascii")


def _check_size(height: int, width: int, count: int) -> None:
    if not (min(height, width) > 0 and height * width <= MAX_PIXELS and height * width * count <= _MAX_BYTES):
        raise DataError(f"{count} masks of {width} x {height} pixels are beyond what is drawn",
                        where=f"masks of an image of {width} x {height} pixels",
                        remedy=f"At most {MAX_PIXELS:,} pixels, and {_MAX_BYTES >> 30} GiB for the masks of an image")


def _fill(masks: np.ndarray, of_ring: np.ndarray, vertices: np.ndarray, points: np.ndarray) -> None:
    """Adds ring r, points [vertices[r], vertices[r + 1]), to mask `of_ring[r]` of bool [n, H, W]."""
    height, width = masks.shape[1:]
    ring, column, row = _crossings(vertices, points, height, width)
    bounds = np.searchsorted(ring, np.arange(len(of_ring) + 1))
    for r, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        if first == last:
            continue
        columns, rows = column[first:last], row[first:last]
        left, top = columns.min(), rows.min()
        across, down = int(columns.max() - left + 1), int(rows.max() - top + 1)
        places, counts = np.unique((rows - top) * across + columns - left, return_counts=True)
        inside = np.zeros(down * across, bool)
        inside[places[counts % 2 == 1]] = True
        inside = np.logical_xor.accumulate(inside.reshape(down, across), axis=0)
        into = masks[of_ring[r], top:top + down, left:left + across]
        into |= inside[:len(into)]


def _crossings(vertices: np.ndarray, points: np.ndarray, height: int, width: int
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where closed polygons cross the middle lines of pixel columns: (ring, in order; column; first row below)."""
    counts = np.diff(vertices)
    ring = np.repeat(np.arange(len(counts)), counts)
    fine = np.trunc(_FINE * np.clip(np.nan_to_num(points), -_MAX_POINT, _MAX_POINT) + 0.5).astype(np.int64)
    following = np.arange(1, len(points) + 1)
    filled = counts > 0
    following[vertices[1:][filled] - 1] = vertices[:-1][filled]
    start, step = fine, fine[following] - fine
    flat = abs(step[:, 0]) >= abs(step[:, 1])
    turned = np.where(flat, step[:, 0] < 0, step[:, 1] < 0)[:, None]
    start, step = np.where(turned, fine[following], start), np.where(turned, -step, step)
    left = np.minimum(start[:, 0], start[:, 0] + step[:, 0])
    right = np.maximum(start[:, 0], start[:, 0] + step[:, 0])
    first = np.maximum(-((2 - left) // _FINE), 0)  # column k is crossed between 5 k + 2 and 5 k + 3
    number = np.maximum(np.minimum((right - 3) // _FINE, width - 1) - first + 1, 0)
    edge = np.repeat(np.arange(len(points)), number)
    column = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number)
    x, y, dx, dy = start[edge, 0], start[edge, 1], step[edge, 0], step[edge, 1]
    row = np.where(flat[edge], _row_of_flat(x, y, dx, dy, column), _row_of_steep(x, y, dx, dy, column))
    below = np.ceil(np.clip((row + 0.5) / _FINE - 0.5, 0, height)).astype(np.int64)
    return ring[edge], column, below


def _row_of_flat(x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The upper of the two fine rows beside the crossing, of edges with dx >= |dy|."""
    slope = dy / np.maximum(dx, 1)
    along = _FINE * column + 2 - x
    return np.minimum(np.trunc(y + slope * along + 0.5), np.trunc(y + slope * (along + 1) + 0.5))


def _row_of_steep(x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The same of edges with dy > |dx|: the last fine row on the near side of the crossing."""
    slope = dx / np.maximum(dy, 1)
    rising = slope > 0
    target = _FINE * column + 2

    def beyond(along: np.ndarray) -> np.ndarray:
        at = np.trunc(x + slope * along + 0.5)
        return np.where(rising, at > target, at <= target)

    guess = np.ceil((target + 0.5 - x) / np.where(slope == 0, 1, slope))
    guess -= beyond(guess - 1)  # rounding moves the row by one at most
    guess += ~beyond(guess)
    return y + guess - 1
