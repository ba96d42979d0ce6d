"""Dynamic batching, for accelerators: images that wait at the same time are computed together."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

import numpy as np

from visus.deploy.session import Session

GAIN = 1.25        # images a second that a batch must win over single images
SIZES = (4, 8, 16, 32)


class _Place:
    """An image that waits, and its answer."""

    __slots__ = ("done", "error", "image", "probs")

    def __init__(self, image: np.ndarray):
        self.image = image
        self.done = threading.Event()
        self.probs: np.ndarray | None = None
        self.error: BaseException | None = None


class Batcher:
    """uint8 [h, w, c] -> float32 [K], from many threads at once. The first that finds nobody collecting waits `delay`
    seconds or until `most` images are there, then computes for all; while it computes the next batch collects."""

    def __init__(self, session: Session, most: int, delay: float):
        self.session, self.most, self.delay = session, most, delay
        self._lock = threading.Lock()
        self._full = threading.Condition(self._lock)
        self._waiting: list[_Place] = []
        self._collecting = False
        self._computing = threading.Lock()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        place = _Place(image)
        with self._lock:
            self._waiting.append(place)
            leader = not self._collecting
            if leader:
                self._collecting = True
            elif len(self._waiting) >= self.most:
                self._full.notify_all()
        if leader:
            self._lead()
        place.done.wait()
        if place.error is not None:
            raise place.error
        assert place.probs is not None
        return place.probs

    def _lead(self) -> None:
        with self._computing:  # what arrives while the device is busy belongs to the same batch
            with self._lock:
                end = time.perf_counter() + self.delay
                while len(self._waiting) < self.most and (left := end - time.perf_counter()) > 0:
                    self._full.wait(left)
                batch = self._waiting
                self._waiting, self._collecting = [], False
            for start in range(0, len(batch), self.most):
                self._compute(batch[start:start + self.most])

    def _compute(self, batch: Sequence[_Place]) -> None:
        try:
            probs = self.session(np.stack([place.image for place in batch]))
            for place, row in zip(batch, probs, strict=True):
                place.probs = row
        except BaseException as error:  # handed to the threads that wait, whatever it is
            for place in batch:
                place.error = error
        for place in batch:
            place.done.set()


def best_batch(session: Session, shape: tuple[int, int, int], seconds: float = 2.0, rounds: int = 5) -> int:
    """The batch that gives the most images a second in a short measurement, or 1 where none gives GAIN times as many as
    single images. shape: (height, width, channels). seconds: of measurement, about."""
    rate = {}
    for size in (1, *SIZES):
        images = np.zeros((size, *shape), np.uint8)
        session(images)
        times: list[float] = []
        end = time.perf_counter() + seconds / (len(SIZES) + 1)
        while len(times) < rounds or time.perf_counter() < end:
            begin = time.perf_counter()
            session(images)
            times.append(time.perf_counter() - begin)
            if time.perf_counter() > end + seconds:
                break
        rate[size] = size / statistics.median(times)
    best = max(rate, key=lambda size: rate[size])
    return best if rate[best] >= GAIN * rate[1] else 1
