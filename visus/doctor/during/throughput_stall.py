"""Steps take much longer than they did.

The median of the last fifty steps over the best median of fifty before. Where the process computes as much longer, the
loop does more at each step than it did: a graph or a list that grows, tensors kept with their history. Where only the
clock ran, something else takes the machine or the data come late: a note.
Source: PyTorch's FAQ ("don't accumulate history across your training loop"); reliability.md R12.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

WINDOW = 50


class ThroughputStall:
    def __init__(self) -> None:
        self.recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self.best: tuple[float, float] | None = None
        self.slow = 0
        self.told = ""

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        cpu = facts.get("cpu_s")
        if not look.seconds or cpu is None or look.full or self.told == "warning":
            return
        self.recent.append((look.seconds, float(cpu)))
        if len(self.recent) < WINDOW:
            return
        wall, worked = median(s for s, _ in self.recent), median(c for _, c in self.recent)
        self.recent.clear()
        if self.best is None:
            self.best = (wall, worked)
            return
        times, more = wall / self.best[0], worked / max(self.best[1], 1e-9)
        self.best = (min(wall, self.best[0]), min(worked, self.best[1]))
        self.slow = self.slow + 1 if times > limit("throughput-stall.times") else 0
        if self.slow < 2 or wall - self.best[0] < limit("throughput-stall.seconds"):
            return
        own = more > limit("throughput-stall.times")
        severity = "warning" if own else "note"
        if severity == self.told:
            return
        self.told = severity
        why = "the process computes that much longer too" if own else \
            "the process itself does not compute longer: it waits, for data or for the machine"
        yield Finding("throughput-stall", "warning" if own else "note", f"A step takes {times:.1f} times as long as "
                                                                        f"before",
                      f"{1000 * wall:.0f} ms, median of {WINDOW} steps up to step {look.step}; it was "
                      f"{1000 * wall / times:.0f} ms (bound {limit('throughput-stall.times'):g} times); {why}",
                      "Sum up loss.item(), not loss; keep no outputs with their graph in lists; detach hidden states "
                      "between batches" if own else "Look at the loader and at what else runs on the machine",
                      step=look.step)


add(ThroughputStall, "throughput-stall", stage="during", rank=5, cost="nothing: two clock readings a step",
    rule="the median of a hundred steps is below twice the best median of fifty before", course="18.25")
