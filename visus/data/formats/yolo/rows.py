"""The lines of YOLO's label files as arrays: all lines of many files are parsed at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from visus.core.errors import DataError, printable
from visus.data.formats.yolo.layout import YoloLayout
from visus.data.objects import Objects, Outlines
from visus.data.samples import counted

_SLACK = 0.01  # shares of the image that a coordinate may lie outside of it
_ALLOWED = b"0123456789+-.eE \t\n"


@dataclass
class YoloRows:
    """Turns the lines of many label files into arrays, all lines of a part at once."""

    layout: YoloLayout
    files: Sequence[str]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._done = self._faults = self._repeated = self._outside = self._empty = self._plain = 0
        self._shown: list[str] = []
        self._pixels = False
        self._classes: set[int] = set()
        self._image: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._boxes: list[np.ndarray] = []
        self._sides: list[np.ndarray] = []
        self._points: list[np.ndarray] = []
        self._keypoints: list[np.ndarray] = []

    def take(self, texts: list[bytes]) -> None:
        """texts: what the next files hold."""
        texts = [text.removeprefix(b"\xef\xbb\xbf") for text in texts]
        texts = [text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text for text in texts]
        self._lines = np.concatenate([[0], np.cumsum([text.count(b"\n") + 1 for text in texts])])
        self._empty += sum(bool(self.files[self._done + k]) and not text.strip() for k, text in enumerate(texts))
        whole = b"\n".join(texts) + b"\n"
        if whole.translate(None, _ALLOWED):
            whole = self._without_bad_lines(whole)
        try:
            values = np.array(list(map(float, whole.split())), np.float64)
        except ValueError:
            whole = self._without_bad_lines(whole)
            values = np.array(list(map(float, whole.split())), np.float64)
        characters = np.frombuffer(whole, np.uint8)
        blank = characters <= 32
        begins = ~blank
        begins[1:] &= blank[:-1]
        line_of = np.cumsum(characters == 10)[begins]
        counts = np.bincount(line_of, minlength=int(self._lines[-1]))
        lines = np.flatnonzero(counts)
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are found, and refused, afterwards
            self._take_values(values, lines, counts[lines])
        self._done += len(texts)

    def refuse(self) -> None:
        """Raises DataError for all lines that cannot be used."""
        if not self._faults:
            return
        more = f" and {self._faults - len(self._shown):,} more" if self._faults > len(self._shown) else ""
        count = len(self.layout.classes or ())
        remedy = "A line is: class centre_x centre_y width height, or: class x1 y1 x2 y2 x3 y3 ..."
        if self._pixels:
            remedy = "Looks like pixels: YOLO wants shares of the image's width and height, from 0 to 1"
        elif self._classes and min(self._classes) == 1 and max(self._classes) == count:
            remedy = "The labels look 1-based: YOLO counts classes from 0"
        elif self._classes and max(self._classes) >= count > 0:
            remedy = f"There are {counted(count, 'class')}, numbered from 0 to {count - 1}"
        raise DataError(f"{counted(self._faults, 'line')} that cannot be used: " + "; ".join(self._shown) + more,
                        where=self.layout.listing.path, remedy=remedy)

    def objects(self) -> Objects:
        """All of them, and the notes about them. Only after `refuse`."""
        image, labels, boxes = _all(self._image, 0), _all(self._labels, 0), _all(self._boxes, (0, 4), np.float64)
        sides, points = _all(self._sides, 0), _all(self._points, (0, 2), np.float64)
        names = self.layout.keypoint_names
        start = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(self.files)))]).astype(np.int64)
        outlines = keypoints = None
        if len(points):
            outlines = Outlines(polygons=np.concatenate([[0], np.cumsum(sides > 0)]).astype(np.int64), points=points,
                                vertices=np.concatenate([[0], np.cumsum(sides[sides > 0])]).astype(np.int64))
            if (sides == 0).any():
                self.notes.append(f"{counted(int((sides == 0).sum()), 'object')} with a box alone beside "
                                  f"{counted(int((sides > 0).sum()), 'object')} with a polygon")
        if names:
            keypoints = _all(self._keypoints, (0, len(names), 3), np.float64)
        for count, what in ((self._repeated, "repeated line"), (self._empty, "empty label file")):
            if count:
                self.notes.append(counted(count, what) + (" left out" if what == "repeated line" else ""))
        if self._outside:
            self.notes.append(f"{counted(self._outside, 'object')} up to {_SLACK:.0%} outside of the image")
        return Objects(start=start, labels=labels, boxes=boxes, outlines=outlines, keypoints=keypoints,
                       keypoint_names=names, skeleton=self.layout.skeleton, relative=True)

    def _take_values(self, values: np.ndarray, lines: np.ndarray, counts: np.ndarray) -> None:
        first = np.cumsum(counts) - counts
        per_object = self.layout.keypoint_values * len(self.layout.keypoint_names)
        marked = counts == 5 + per_object if per_object else np.zeros(len(counts), bool)
        polygon = (counts >= 7) & (counts % 2 == 1) if not per_object else np.zeros(len(counts), bool)
        good = marked | polygon if per_object else polygon | (counts == 5)
        self._bad(lines, ~good, lambda k: f"{counts[k]} columns" + (
            f", with kpt_shape {5 + per_object} are needed" if per_object
            else ": a confidence, as predictions have it?" if counts[k] == 6 else ""))
        classes = values[first] if len(first) else np.empty(0)
        limit = len(self.layout.classes) if self.layout.classes is not None else 1 << 20
        odd = ~((classes >= 0) & (classes < limit) & (np.floor(classes) == classes)) & good
        self._classes.update(np.unique(classes[(np.abs(classes) < 1 << 40) & good]).astype(np.int64).tolist())
        self._bad(lines, odd, lambda k: f"class {classes[k]:g}" + (f" of {limit}" if self.layout.classes else ""))
        good &= ~odd
        keep = np.flatnonzero(good)
        boxed = keep[~polygon[keep]]
        boxes = np.zeros((len(lines), 4))
        centre = values[first[boxed, None] + np.arange(1, 5)]
        boxes[boxed] = np.concatenate([centre[:, :2] - centre[:, 2:] / 2, centre[:, :2] + centre[:, 2:] / 2], 1)
        low, high = np.zeros(len(lines)), np.zeros(len(lines))
        low[boxed], high[boxed] = _extremes(centre)
        ring = keep[polygon[keep]]
        sides = np.where(polygon & good, (counts - 1) // 2, 0)
        points = _gather(values, first[ring] + 1, 2 * sides[ring]).reshape(-1, 2)
        if len(ring):
            begin = np.cumsum(sides[ring]) - sides[ring]
            boxes[ring] = np.concatenate([np.minimum.reduceat(points, begin), np.maximum.reduceat(points, begin)], 1)
            low[ring], high[ring] = _extremes(boxes[ring])
        keypoints = self._marks(values, first, keep, low, high) if per_object else None
        outside = good & ~((low >= -_SLACK) & (high <= 1 + _SLACK))
        outside[boxed] |= (centre[:, 2:] < 0).any(1)
        self._pixels |= bool((high[outside] > 2).any())
        self._bad(lines, outside, lambda k: _out_of_range(float(low[k]), float(high[k])))
        if self._faults:
            return
        self._outside += int(((low[keep] < -1e-6) | (high[keep] > 1 + 1e-6)).sum())
        image = np.searchsorted(self._lines, lines, "right") - 1 + self._done
        self._add(image, classes.astype(np.int64), boxes, sides, points, keypoints)

    def _marks(self, values: np.ndarray, first: np.ndarray, keep: np.ndarray, low: np.ndarray,
               high: np.ndarray) -> np.ndarray:
        """float64 [lines, P, 3]; widens `low` and `high` by those that are marked."""
        names, each = self.layout.keypoint_names, self.layout.keypoint_values
        marks = np.zeros((len(first), len(names), 3))
        found = values[first[keep, None] + np.arange(5, 5 + each * len(names))].reshape(-1, len(names), each)
        marks[keep, :, :each] = found
        marks[keep, :, 2] = found[..., 2] if each == 3 else 2 * ((found >= 0).all(2) & (found > 0).any(2))
        shown = marks[keep, :, 2:] > 0
        low[keep] = np.minimum(low[keep], np.where(shown, found[..., :2], 0).min((1, 2)))
        high[keep] = np.maximum(high[keep], np.where(shown, found[..., :2], 0).max((1, 2)))
        odd = ~np.isin(marks[..., 2], (0, 1, 2)).all(1) | ~np.isfinite(marks).all((1, 2))
        low[odd] = np.nan
        return marks

    def _add(self, image: np.ndarray, labels: np.ndarray, boxes: np.ndarray, sides: np.ndarray, points: np.ndarray,
             keypoints: np.ndarray | None) -> None:
        """Keeps the objects of one part, each once."""
        repeated = _repeated(image, labels, boxes, sides, points, keypoints)
        if repeated.any():
            self._repeated += int(repeated.sum())
            stay = ~repeated
            points = points[np.repeat(stay, sides)]
            image, labels, boxes, sides = image[stay], labels[stay], boxes[stay], sides[stay]
            keypoints = None if keypoints is None else keypoints[stay]
        self._image.append(image)
        self._labels.append(labels)
        self._boxes.append(boxes)
        self._sides.append(sides)
        self._points.append(points)
        if keypoints is not None:
            self._keypoints.append(keypoints)

    def _bad(self, lines: np.ndarray, bad: np.ndarray, text: Callable[[int], str]) -> None:
        found = np.flatnonzero(bad)
        self._faults += len(found)
        for k in found[:max(0, 10 - len(self._shown))].tolist():
            self._shown.append(f"{self._place(int(lines[k]))}: {text(k)}")

    def _place(self, line: int) -> str:
        k = int(np.searchsorted(self._lines, line, "right")) - 1
        return f"{printable(self.files[self._done + k])}:{line - int(self._lines[k]) + 1}"

    def _without_bad_lines(self, whole: bytes) -> bytes:
        """The same lines, empty where they hold something other than numbers."""
        lines = whole.split(b"\n")
        for number, line in enumerate(lines):
            try:
                if not line.translate(None, _ALLOWED):
                    list(map(float, line.split()))
                    continue
            except ValueError:
                pass
            self._faults += 1
            if len(self._shown) < 10:
                comma = b"," in line and not line.translate(None, _ALLOWED + b",")
                shown = printable(line[:60].decode("utf-8", "backslashreplace"))
                self._shown.append(f"{self._place(number)}: {shown!r} is not numbers"
                                   + (", which have a point and no comma" if comma else ""))
            lines[number] = b""
        return b"\n".join(lines)


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.min(1, initial=np.inf), values.max(1, initial=-np.inf)


def _out_of_range(low: float, high: float) -> str:
    if not np.isfinite(low) or not np.isfinite(high):
        return "a value that is no number, or a visibility other than 0, 1 and 2"
    return f"{low:g} is under 0" if low < 0 and high <= 1 + _SLACK else f"{high:g} is over 1"


def _gather(values: np.ndarray, first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The `counts[k]` values from `first[k]` on, of all k in a row."""
    begin = np.cumsum(counts) - counts
    return values[np.repeat(first - begin, counts) + np.arange(int(counts.sum()))]


def _all(parts: list[np.ndarray], shape: object, dtype: type = np.int64) -> np.ndarray:
    return np.concatenate([np.empty(shape, dtype), *parts])  # type: ignore[call-overload]


def _repeated(image: np.ndarray, labels: np.ndarray, boxes: np.ndarray, sides: np.ndarray, points: np.ndarray,
              keypoints: np.ndarray | None) -> np.ndarray:
    """bool [M]: equal in everything to an earlier object of the same image."""
    found = np.zeros(len(image), bool)
    key = (image.astype(np.uint64) << np.uint64(20)) + labels.astype(np.uint64)
    for bits in np.ascontiguousarray(boxes).view(np.uint64).T:
        key = (key ^ bits) * np.uint64(0x9E3779B97F4A7C15) + (key >> np.uint64(29))
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    if not len(same):
        return found
    begin = np.cumsum(sides) - sides

    def content(m: int) -> tuple[object, ...]:
        ring = points[begin[m]:begin[m] + sides[m]]
        marks = b"" if keypoints is None else keypoints[m].tobytes()
        return int(image[m]), int(labels[m]), boxes[m].tobytes(), ring.tobytes(), marks

    seen: set[tuple[object, ...]] = set()
    for m in np.unique(order[np.concatenate([same, same + 1])]).tolist():
        found[m] = content(m) in seen
        seen.add(content(m))
    return found
