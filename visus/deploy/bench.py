"""Latency, throughput, memory and energy of one way to compute, measured in a process of its own; the peak that they
are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_CALLS = 2
LEAST_CALLS, MOST_CALLS = 5, 20_000
PEAK_SIZES = (512, 1024, 1536)  # sides of the square matrices; small ones fit the cache, large ones hide the overhead
PEAK_SECONDS = 0.6
METERS = Path("/sys/class/powercap")  # RAPL: microjoules of each processor package, since it was switched on


@dataclass(frozen=True)
class Measured:
    """Of one setting. p50_ms, p90_ms, p99_ms: wall time of a call with `batch` images. images_per_s: over the whole
    time. memory_mb: how far the process grew at most beyond its imports, MiB; None where it cannot be told. load_s:
    until it could answer. joules: of an image, by the meters of the processor packages, whatever else
    they did meanwhile; None where there are none that may be read."""

    batch: int
    threads: int
    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    images_per_s: float
    cpu_ms: float
    memory_mb: float | None
    load_s: float
    joules: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(load: Callable[[], Callable[[Any], Any]], images: Any, threads: int, seconds: float) -> Measured:
    """load gives the way to compute; images: one batch. Called in a fresh process, what has been imported before is not
    counted as memory."""
    before = resident_mb()
    start = time.perf_counter()
    call = load()
    for _ in range(WARM_CALLS):
        call(images)
    load_s = time.perf_counter() - start
    laps: list[float] = []
    energy = joules()
    start, cpu = time.perf_counter(), time.process_time()
    while len(laps) < LEAST_CALLS or (time.perf_counter() - start < seconds and len(laps) < MOST_CALLS):
        lap = time.perf_counter()
        call(images)
        laps.append(time.perf_counter() - lap)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak, spent = peak_mb(), _spent(energy, joules())
    p50, p90, p99 = (1e3 * float(value) for value in np.percentile(laps, (50, 90, 99)))
    return Measured(batch=len(images), threads=threads, calls=len(laps), p50_ms=p50, p90_ms=p90, p99_ms=p99,
                    mean_ms=1e3 * wall / len(laps), images_per_s=len(images) * len(laps) / wall,
                    cpu_ms=1e3 * cpu / len(laps), load_s=load_s,
                    memory_mb=None if before is None or peak is None else max(0.0, peak - before),
                    joules=None if spent is None else spent / (len(images) * len(laps)))


def joules(meters: Path = METERS) -> tuple[float, ...] | None:
    """What each package's meter shows; None where there are none, or only the administrator may read them."""
    try:
        found = tuple(int((package / "energy_uj").read_text()) / 1e6 for package in sorted(meters.glob("intel-rapl:?")))
    except (OSError, ValueError):
        return None
    return found or None


def _spent(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> float | None:
    if before is None or after is None:
        return None
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return sum(spent) if min(spent) >= 0 else None  # a meter that began again at 0


def resident_mb() -> float | None:
    """MiB of this process that are in memory now; None where the system does not tell."""
    return _status("VmRSS")


def peak_mb() -> float | None:
    """The most that there ever were. (ru_maxrss would be the parent's, after a fork.)"""
    return _status("VmHWM")


def _status(field: str) -> float | None:
    try:
        text = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:
        return None
    return next((float(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field + ":")), None)


def matmul_peak(threads: int, seconds: float = PEAK_SECONDS) -> float:
    """The best rate of a product of square float32 matrices, of several sizes, in floating-point operations a second
    of wall time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            sides = [torch.ones(side, side) for side in PEAK_SIZES]
            outs = [torch.empty_like(side) for side in sides]
            best, deadline, rounds = 0.0, time.perf_counter() + seconds, 0
            while rounds < 2 or time.perf_counter() < deadline:
                for a, out in zip(sides, outs, strict=True):
                    start = time.perf_counter()
                    torch.mm(a, a, out=out)
                    taken = time.perf_counter() - start
                    best = max(best, 2 * len(a) ** 3 / taken) if rounds else best
                rounds += 1
            return best
    finally:
        torch.set_num_threads(before)
