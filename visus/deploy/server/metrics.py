"""What Prometheus reads: counts, times and states, summed over the workers.

Every worker owns a row of one block of shared memory and adds to it from its event loop only, so that nothing is
locked and a worker that died loses none of its counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

ROUTES = ("predict", "infer", "explain", "attack", "metadata", "health", "metrics", "page", "other")
STATUSES = (200, 204, 304, 400, 401, 403, 404, 405, 408, 411, 413, 415, 421, 422, 429, 431, 499, 500, 503, 504, 505, 0)
STAGES = ("queue", "decode", "model")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
GAUGES = ("waiting", "running", "connections", "held_bytes", "ready")
COUNTERS = ("images", "refused_connections", "reloads_done", "reloads_refused", "lost_log_lines", "restarts")
CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()

_HISTOGRAM = len(BUCKETS) + 2  # the buckets, the one beyond them, the sum
_AT_STATUS = {status: place for place, status in enumerate(STATUSES)}
_AT_ROUTE = {route: place for place, route in enumerate(ROUTES)}
_REQUESTS = 0
_SECONDS = _REQUESTS + len(ROUTES) * len(STATUSES)
_STAGES = _SECONDS + len(ROUTES) * _HISTOGRAM
_COUNTERS = _STAGES + len(STAGES) * _HISTOGRAM
_GAUGES = _COUNTERS + len(COUNTERS)
SIZE = _GAUGES + len(GAUGES)
_AT_COUNTER = {name: _COUNTERS + place for place, name in enumerate(COUNTERS)}
_AT_GAUGE = {name: _GAUGES + place for place, name in enumerate(GAUGES)}


class Metrics:
    """block: float64 [workers, SIZE], shared between the workers; row: this worker's."""

    def __init__(self, block: np.ndarray | None = None, row: int = 0):
        self.block = np.zeros((1, SIZE)) if block is None else block
        self.own = self.block[row]
        self.own[_GAUGES:] = 0

    def request(self, route: str, status: int, seconds: float) -> None:
        place = _AT_ROUTE.get(route, _AT_ROUTE["other"])
        self.own[_REQUESTS + place * len(STATUSES) + _AT_STATUS.get(status, len(STATUSES) - 1)] += 1
        self._observe(_SECONDS + place * _HISTOGRAM, seconds)

    def stage(self, name: str, seconds: float) -> None:
        self._observe(_STAGES + STAGES.index(name) * _HISTOGRAM, seconds)

    def count(self, name: str, by: float = 1) -> None:
        self.own[_AT_COUNTER[name]] += by

    def set(self, name: str, value: float) -> None:
        self.own[_AT_GAUGE[name]] = value

    def gauge(self, name: str) -> np.ndarray:
        """The value of every worker."""
        return self.block[:, _AT_GAUGE[name]]

    def _observe(self, start: int, seconds: float) -> None:
        place = 0
        while place < len(BUCKETS) and seconds > BUCKETS[place]:
            place += 1
        self.own[start + place] += 1
        self.own[start + _HISTOGRAM - 1] += seconds

    def text(self, model: str, version: str) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(_Source(self.block.sum(0), len(self.block), model, version))


class _Source:
    """The sums as prometheus_client's families."""

    def __init__(self, sums: np.ndarray, workers: int, model: str, version: str):
        self.sums, self.workers, self.model, self.version = sums, workers, model, version

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("visus_requests", "Requests by route and status (499: the client was gone).",
                                       labels=["route", "status"])
        seconds = HistogramMetricFamily("visus_request_seconds", "From the headers to the answer.", labels=["route"])
        for place, route in enumerate(ROUTES):
            row = self.sums[_REQUESTS + place * len(STATUSES):_REQUESTS + (place + 1) * len(STATUSES)]
            for status, count in zip(STATUSES, row, strict=True):
                if count:
                    requests.add_metric([route, str(status) if status else "other"], count)
            if row.sum():
                self._histogram(seconds, [route], _SECONDS + place * _HISTOGRAM)
        yield requests
        yield seconds
        stages = HistogramMetricFamily("visus_stage_seconds", "Of a request with images: waiting, decoding, computing.",
                                       labels=["stage"])
        for place, stage in enumerate(STAGES):
            self._histogram(stages, [stage], _STAGES + place * _HISTOGRAM)
        yield stages
        for name, text in (("images", "Images answered."), ("refused_connections", "Connections over the limit."),
                           ("lost_log_lines", "Log lines that found the queue full."),
                           ("restarts", "Workers started again.")):
            yield CounterMetricFamily(f"visus_{name}", text, value=self.sums[_AT_COUNTER[name]])
        reloads = CounterMetricFamily("visus_reloads", "Bundles loaded while running.", labels=["result"])
        for result in ("done", "refused"):
            reloads.add_metric([result], self.sums[_AT_COUNTER[f"reloads_{result}"]])
        yield reloads
        for name, text in (("waiting", "Requests in the queue."), ("running", "Requests that compute."),
                           ("connections", "Open connections."), ("held_bytes", "Bytes of bodies in memory."),
                           ("ready", "Workers that are ready.")):
            yield GaugeMetricFamily(f"visus_{name}", text, value=self.sums[_AT_GAUGE[name]])
        yield GaugeMetricFamily("visus_workers", "Workers that there should be.", value=self.workers)
        about = GaugeMetricFamily("visus_model_info", "The model that answers.", labels=["model", "version"])
        about.add_metric([self.model, self.version], 1)
        yield about

    def _histogram(self, family: HistogramMetricFamily, labels: Sequence[str], start: int) -> None:
        counts = self.sums[start:start + _HISTOGRAM - 1].cumsum()
        buckets: list[Any] = [(str(edge), count) for edge, count in zip(BUCKETS, counts[:-1], strict=True)]
        family.add_metric(list(labels), [*buckets, ("+Inf", counts[-1])], self.sums[start + _HISTOGRAM - 1])
