"""What every route shares: the model that answers now, the streams that compute, the counts, readiness."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from visus.core.errors import ImageError, printable
from visus.core.images import read_header
from visus.deploy.predictor import Predictor
from visus.deploy.server.batching import Batcher
from visus.deploy.server.errors import Refusal, draining, of_image
from visus.deploy.server.exchange import ClientGone, Exchange, current
from visus.deploy.server.limits import Held
from visus.deploy.server.logs import Log
from visus.deploy.server.metrics import Metrics
from visus.deploy.server.settings import ServerSettings
from visus.deploy.server.streams import Streams

LARGE_PIXELS = 8_000_000
DEFLATE = 1032  # bytes that one compressed byte may become (RFC 1951: 258 bytes from two bits)

Explain = Callable[[np.ndarray, str, int | None], np.ndarray]  # uint8 [h, w, c], method, class -> float32 [h, w]
Attack = Callable[[np.ndarray, float, str], np.ndarray]        # uint8 [h, w, c], epsilon, method -> uint8 [h, w, c]


class Collector(Protocol):
    """Statistics for `visus monitor`: histograms, no images."""

    def add(self, prepared: np.ndarray, probs: np.ndarray, size: tuple[int, int] | None = None) -> object: ...


@dataclass(frozen=True)
class Answering:
    """A predictor as it is served. A request takes it once and keeps it: a reload changes nothing under its hands."""

    predictor: Predictor
    name: str
    version: str
    probs: Callable[[np.ndarray], np.ndarray]  # uint8 [h, w, c] -> float32 [K]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictor.bundle.labels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) as the network takes it."""
        preprocessing = self.predictor.bundle.preprocessing
        return (*preprocessing.size, preprocessing.channels)


class Service:
    """explain, attack: what `visus.run` hands in for the page, or None. collector: of statistics, or None."""

    def __init__(self, predictor: Predictor, settings: ServerSettings, *, explain: Explain | None = None,
                 attack: Attack | None = None, collector: Collector | None = None, metrics: Metrics | None = None,
                 log: Log | None = None):
        self.settings = settings
        self.explain, self.attack, self.collector = explain, attack, collector
        self.metrics = metrics or Metrics()
        self.log = log or Log("")
        self.held = Held(settings.max_held_bytes)
        self.draining = False
        self.answering = self._answering(predictor)
        streams = settings.computing_streams
        if settings.batch > 1:  # as many must wait in a batch as it may hold
            streams = max(streams, 2 * settings.batch)
        self.streams = Streams(streams, settings.queue)
        self._decoding = threading.Semaphore(settings.computing_streams)  # fewer than streams where batches are made
        self._decoding_large = threading.Semaphore(1)
        self.metrics.set("ready", 1)

    def _answering(self, predictor: Predictor) -> Answering:
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in predictor.bundle.name) or "model"
        probs = predictor.probs
        if self.settings.batch > 1:
            probs = Batcher(predictor.session, self.settings.batch, self.settings.batch_delay_ms / 1000)
        return Answering(predictor, name, predictor.bundle.identity[:12], probs)

    @property
    def predictor(self) -> Predictor:
        return self.answering.predictor

    def swap(self, predictor: Predictor) -> None:
        """From now on requests are answered by this one; those under way keep theirs."""
        self.answering = self._answering(predictor)

    def drain(self) -> None:
        """From now on requests are refused with 503; those under way are finished."""
        self.draining = True
        self.metrics.set("ready", 0)

    @property
    def ready(self) -> bool:
        """Whether requests are taken by every worker that there should be."""
        return not self.draining and bool(self.metrics.gauge("ready").all())

    async def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args) on a computing stream. Raises Refusal: 429 when the queue is full, 503 while draining, 504
        beyond the time for an answer, which began with the request; ClientGone when the connection is lost, where the
        work is dropped if it has not begun; and what the function raises."""
        if self.draining:
            raise draining()
        exchange = current()
        left = self.settings.answer_seconds - (time.perf_counter() - exchange.started)
        return await self.streams.submit(exchange, left, function, *args)

    # -- on a stream -----------------------------------------------------------------------------------------------

    def prepared(self, answering: Answering, exchange: Exchange, data: bytes, name: str) -> \
            tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """An image file -> uint8 [h, w, c] as the network takes it, the decoded pixels, and how it was read. Raises
        Refusal for one that cannot be read."""
        begin = time.perf_counter()
        try:
            with self._decoding_large if self._is_large(data) else self._decoding:
                read = answering.predictor.read(data, max_pixels=self.settings.max_pixels, name=name)
                image = answering.predictor.prepared(read.pixels)
        except ImageError as error:
            raise of_image(error, data) from None
        finally:
            exchange.decode_s += time.perf_counter() - begin
        return image, read.pixels, read.notes

    def _is_large(self, data: bytes) -> bool:
        """Whether decoding takes so much memory that one at a time is enough. Raises ImageError. Of JPEG none does: it
        has no alpha, and is decoded straight to bytes."""
        if data[:3] == b"\xff\xd8\xff" or data[:4] == b"\x89PNG" and len(data) * 8 * DEFLATE < LARGE_PIXELS:
            return False
        header = read_header(data, max_pixels=self.settings.max_pixels)
        return header.width * header.height > LARGE_PIXELS

    def probs(self, answering: Answering, exchange: Exchange, image: np.ndarray,
              size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [h, w, c] -> float32 [K]; counted, timed, and added to the statistics. size: (width, height) of the
        file. Raises ClientGone when nobody waits any more."""
        if exchange.abandoned:
            raise ClientGone
        begin = time.perf_counter()
        probs = answering.probs(image)
        exchange.model_s += time.perf_counter() - begin
        exchange.images += 1
        if self.collector is not None:
            self.collector.add(image, probs, size)
        return probs

    def classify(self, answering: Answering, exchange: Exchange, data: bytes, name: str, top: int) -> dict[str, Any]:
        """An image file -> its entry in an answer of POST /predict. Raises Refusal, ClientGone."""
        image, pixels, notes = self.prepared(answering, exchange, data, name)
        height, width = pixels.shape[:2]
        probs = self.probs(answering, exchange, image, (width, height))
        predictor, labels = answering.predictor, answering.labels
        return {"name": name, "predicted": list(predictor.chosen(probs)),
                "top": [{"label": labels[k], "prob": prob} for k, prob in predictor.top(probs, top)],
                "width": width, "height": height, "notes": [printable(note) for note in notes]}

    def close(self) -> None:
        self.streams.close()


def refused(name: str, refusal: Refusal, exchange: Exchange) -> dict[str, Any]:
    """The entry of an image that could not be answered, among others that could."""
    return {"name": name, "error": refusal.about(exchange.id)}
