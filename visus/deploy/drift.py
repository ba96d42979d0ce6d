"""What is remembered of images and answers so that a change can be seen later: counts in fixed bins, never an image.

A statistic is a number per image; `SCALES` says in which bins it is counted. A `Collector` counts as images come, from
several threads, in windows of time; visus.deploy.statistics_file writes and reads what it holds. Imports no torch.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from visus.core.errors import DataError

BINS = 256
PIXELS = 72 * 72  # about as many of an image are looked at
LEAST_PROB = 1e-12
LEVELS = np.arange(256) / 255


@dataclass(frozen=True)
class Scale:
    """Equal bins from `low` to `high` of the value ('linear'), its decimal logarithm ('log') or its log-odds ('logit');
    what lies outside counts in the first or last bin."""

    title: str
    kind: Literal["linear", "log", "logit"]
    low: float
    high: float

    def moved(self, value: float) -> float:
        """The value on the axis of the bins."""
        if self.kind == "linear":
            return value
        if self.kind == "log":
            return math.log10(value) if value > 0 else self.low
        return math.log(max(value, LEAST_PROB) / max(1 - value, LEAST_PROB))

    def bin(self, value: float) -> int:
        return min(BINS - 1, max(0, int((self.moved(value) - self.low) / (self.high - self.low) * BINS)))

    @property
    def edges(self) -> np.ndarray:
        """float64 [BINS + 1] in units of the value."""
        places = np.linspace(self.low, self.high, BINS + 1)
        return places if self.kind == "linear" else 10.0**places if self.kind == "log" else 1 / (1 + np.exp(-places))


# Of pixels as the network takes them, in [0, 1]; sizes are those of the file in px.
SCALES: Mapping[str, Scale] = {
    "brightness": Scale("brightness", "linear", 0.0, 1.0),
    "contrast": Scale("contrast", "linear", 0.0, 0.5),
    "saturation": Scale("saturation", "linear", 0.0, 1.0),
    "red": Scale("mean red", "linear", 0.0, 1.0),
    "green": Scale("mean green", "linear", 0.0, 1.0),
    "blue": Scale("mean blue", "linear", 0.0, 1.0),
    "sharpness": Scale("sharpness", "log", -5.0, 2.0),
    "entropy": Scale("entropy of grey values", "linear", 0.0, 8.0),
    "width": Scale("width", "log", 0.0, 5.0),
    "height": Scale("height", "log", 0.0, 5.0),
    "aspect": Scale("width / height", "log", -2.0, 2.0),
    "confidence": Scale("confidence", "logit", -8.0, 17.0),
    "uncertainty": Scale("entropy of the answer", "linear", 0.0, 1.0),
    "distance": Scale("distance of the features", "log", -2.0, 4.0),
}
OF_ANSWERS, OF_FEATURES = ("confidence", "uncertainty"), ("distance",)
OF_FILES = ("width", "height", "aspect")


@dataclass(eq=False)
class Sketch:
    """One statistic of many images. counts: int64 [BINS]. total, squares: sums of the value (of its logarithm on a
    'log' scale) and of its square."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    total: float = 0.0
    squares: float = 0.0

    def add(self, scale: Scale, value: float) -> None:
        if value != value:
            return
        self.counts[scale.bin(value)] += 1
        summed = max(scale.low, scale.moved(value)) if scale.kind == "log" else value
        self.total += summed
        self.squares += summed * summed

    def merge(self, other: Sketch) -> None:
        self.counts = self.counts + other.counts
        self.total += other.total
        self.squares += other.squares

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Of the value, or of its logarithm on a 'log' scale."""
        return self.total / max(1, self.count)

    @property
    def std(self) -> float:
        return math.sqrt(max(0.0, self.squares / max(1, self.count) - self.mean**2))


@dataclass(eq=False)
class Observed:
    """Statistics of `count` images. sketches: by name. predicted: int64 [K], how often each class was given; all zero
    where no answer was seen. start, end: seconds since 1970."""

    predicted: np.ndarray
    sketches: dict[str, Sketch] = field(default_factory=dict)
    count: int = 0
    start: float = 0.0
    end: float = 0.0

    def add(self, values: Mapping[str, float], classes: Sequence[int] = ()) -> None:
        """values: statistics of one image by name, NaN where there is none; classes: those that were given."""
        self.count += 1
        for name, value in values.items():
            if name not in self.sketches:
                self.sketches[name] = Sketch()
            self.sketches[name].add(SCALES[name], value)
        for k in classes:
            self.predicted[k] += 1

    def merge(self, other: Observed) -> None:
        for name, sketch in other.sketches.items():
            self.sketches.setdefault(name, Sketch()).merge(sketch)
        self.predicted = self.predicted + other.predicted
        self.start = min(self.start, other.start) if self.count else other.start
        self.end = max(self.end, other.end)
        self.count += other.count


def merged(parts: Sequence[Observed], num_classes: int) -> Observed:
    """All of them as one; none give an empty one."""
    whole = Observed(np.zeros(num_classes, np.int64))
    for part in parts:
        whole.merge(part)
    return whole


def image_statistics(image: np.ndarray) -> dict[str, float]:
    """Statistics of uint8 [h, w, 1 or 3] as the network takes it, by name of `SCALES`; colours only of 3 channels.

    brightness, contrast: mean and standard deviation of grey (ITU-R 601) in [0, 1]. saturation: mean of (max - min) /
    max over the channels. sharpness: variance of the four-neighbour Laplacian of the green channel over the channel's
    own variance, which light and contrast leave as it is (20 for white noise); NaN for plain images and below 3 px.
    entropy: bits of the grey values' distribution. About 5,000 pixels on a grid are taken; for the sharpness as many,
    in whole rows with those above and below.
    """
    height, width, channels = image.shape
    step = max(1, math.isqrt(height * width // PIXELS))
    planes = np.ascontiguousarray(image[::step, ::step].transpose(2, 0, 1))  # [h, w, C] -> [C, h', w']
    values: dict[str, float] = {}
    grey = planes[0]
    if channels == 3:
        red, green, blue = planes
        weighted = red * np.uint16(77)
        weighted += green * np.uint16(150)
        weighted += blue * np.uint16(29)
        grey = (weighted >> 8).astype(np.uint8)
        most, least = planes.max(0), planes.min(0)
        values["saturation"] = float(((most - least) / np.maximum(most, 1).astype(np.float32)).sum()) / grey.size
        for name, total in zip(("red", "green", "blue"), planes.reshape(3, -1).sum(1).tolist(), strict=True):
            values[name] = total / (255 * grey.size)
    counts = np.bincount(grey.ravel(), minlength=256)
    shares = counts / grey.size
    mean = float(shares @ LEVELS)
    values["brightness"] = mean
    values["contrast"] = math.sqrt(max(0.0, float(shares @ LEVELS**2) - mean**2))
    held = shares[shares > 0]
    values["entropy"] = float(-(held * np.log2(held)).sum()) + 0.0
    values["sharpness"] = _sharpness(image[..., channels // 2], step**2) if min(height, width) >= 3 else math.nan
    return values


def _sharpness(plane: np.ndarray, step: int) -> float:
    """The Laplacian's variance over the variance, in every `step`-th inner row. plane: uint8 [h, w], 3 px or more each
    way. NaN for a plain one."""
    above, here, below = (plane[row:plane.shape[0] - 2 + row:step].astype(np.int16) for row in range(3))
    laplacian = 4 * here[:, 1:-1] - here[:, :-2] - here[:, 2:] - above[:, 1:-1] - below[:, 1:-1]
    spread = _variance(here)
    return _variance(laplacian) / spread if spread > 0 else math.nan


def _variance(values: np.ndarray) -> float:
    flat = values.ravel().astype(np.float32)
    mean = float(flat.sum()) / flat.size
    return max(0.0, float(flat @ flat) / flat.size - mean**2)


def answer_statistics(probs: np.ndarray, thresholds: Sequence[float] | None = None
                      ) -> tuple[dict[str, float], list[int]]:
    """(confidence and uncertainty, the classes given). probs: float [K]. thresholds: of a model with several labels a
    probability for each; its confidence is the mean of max(p, 1 - p), its uncertainty the mean binary entropy in bits.
    Else the largest probability, and the entropy as a share of the largest one, ln K."""
    p = np.asarray(probs, np.float64)
    if thresholds is not None:
        q = np.clip(p, LEAST_PROB, 1 - LEAST_PROB)
        bits = -(q * np.log2(q) + (1 - q) * np.log2(1 - q))
        return ({"confidence": float(np.maximum(p, 1 - p).mean()), "uncertainty": float(bits.mean())},
                [int(k) for k in np.flatnonzero(p >= np.asarray(thresholds))])
    best = int(p.argmax())
    held = p[p > LEAST_PROB]
    entropy = float(-(held * np.log(held)).sum()) / math.log(max(2, len(p)))
    return {"confidence": float(p[best]), "uncertainty": max(0.0, entropy)}, [best]


def file_statistics(width: int, height: int) -> dict[str, float]:
    return {"width": float(width), "height": float(height), "aspect": width / height}


class Collector:
    """Counts images and answers as a server gives them; `save` writes what `visus monitor --requests` reads.

    reference: the bundle's reference.json, by which the file says of which model and classes it is; None is fine too.
    every_s: a new window of counts begins after so many seconds, or after every_requests images where that is given.
    keep: so many windows are kept; older ones go. thresholds: of a model with several labels. Any number of threads may
    call `add` and `save`. It holds no image and nothing from which one could be made again.
    """

    def __init__(self, reference: Mapping[str, Any] | None = None, *, every_s: float = 3600.0,
                 every_requests: int | None = None, keep: int = 168, thresholds: Sequence[float] | None = None,
                 clock: Callable[[], float] = time.time):
        self.about = {} if reference is None else {name: reference[name] for name in ("model", "labels", "weights")
                                                   if name in reference}
        self._every_s, self._every_requests, self._keep = every_s, every_requests, keep
        self._thresholds, self._clock = thresholds, clock
        self._windows: list[Observed] = []
        self._lock = threading.Lock()

    def add(self, prepared: np.ndarray, probs: np.ndarray, size: tuple[int, int] | None = None) -> None:
        """prepared: uint8 [h, w, c] as the network takes it. probs: [K]. size: (width, height) of the file."""
        values = image_statistics(prepared)
        answers, classes = answer_statistics(probs, self._thresholds)
        values |= answers
        if size is not None:
            values |= file_statistics(*size)
        with self._lock:
            self._window(len(probs)).add(values, classes)

    def windows(self) -> list[Observed]:
        """Copies of what is kept, the oldest first."""
        with self._lock:
            return [_copy(window) for window in self._windows]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all windows, replacing the file in one step. Raises ResourceError."""
        from visus.deploy.statistics_file import write_statistics

        write_statistics(path, self.windows(), self.about)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on with the windows of a file that an earlier server wrote. Raises DataError for one that is damaged or
        another model's."""
        from visus.deploy.statistics_file import read_statistics

        windows, stated = read_statistics(path, self.about.get("labels"))
        if stated.get("weights") != self.about.get("weights"):
            raise DataError("holds the statistics of another model", where=path,
                            remedy="Give another --statistics file, or move this one away")
        with self._lock:
            self._windows = windows[-self._keep:]

    def _window(self, num_classes: int) -> Observed:
        now = self._clock()
        current = self._windows[-1] if self._windows else None
        full = current is not None and (
            current.count >= self._every_requests if self._every_requests is not None
            else now // self._every_s != current.start // self._every_s)
        if current is None or full or len(current.predicted) != num_classes:
            current = Observed(np.zeros(num_classes, np.int64), start=now)
            self._windows = [w for w in self._windows if len(w.predicted) == num_classes][-(self._keep - 1):] \
                if self._keep > 1 else []
            self._windows.append(current)
        current.end = now
        return current


def _copy(window: Observed) -> Observed:
    copy = Observed(np.zeros_like(window.predicted))
    copy.merge(window)
    return copy
