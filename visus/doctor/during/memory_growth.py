"""Memory in use grows from step to step, or the graphs of old steps are still held.

Mostly a tensor that is kept together with its graph: `total += loss` in place of `loss.item()`. The memory of a
process also grows while a data set is cached, so there it is a note; PyTorch's own count on a GPU has no such excuse.
And each forward pass leaves a mark in its graph: where the marks of twenty passes are alive five and more steps later,
whatever was kept holds them.
Source: PyTorch's FAQ (memory grows over iterations); reliability.md R12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

EVERY = 100  # steps between two readings; the first is where allocators have settled


class MemoryGrowth:
    when = "full"

    def __init__(self) -> None:
        self.last: tuple[int, float] | None = None
        self.grown = 0
        self.since = (0, 0.0)
        self.told = ""

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        graphs = int(facts.get("graphs", 0))
        if graphs >= limit("memory-growth.graphs") and self.told != "warning":
            self.told = "warning"
            yield Finding("memory-growth", "warning", f"The graphs of {graphs} old steps are still held in memory",
                          f"at step {look.step}, of passes that are more than five steps old (bound "
                          f"{limit('memory-growth.graphs'):g})",
                          "Keep numbers, not tensors: history.append(loss.item()), total += loss.item(), "
                          "outputs.detach()", step=look.step)
        memory = facts.get("memory_mb")
        if memory is None or look.step < EVERY or self.told == "warning":
            return
        where, now = memory
        if self.last is None:
            self.last = self.since = (look.step, now)
            return
        steps = look.step - self.last[0]
        if steps < EVERY:
            return
        slope = (now - self.last[1]) / steps * 100
        grows = slope > limit("memory-growth.mb")
        self.grown = self.grown + steps // EVERY if grows else 0
        if not grows:
            self.since = (look.step, now)
        self.last = (look.step, now)
        severity = "warning" if where == "gpu" else "note"
        if self.grown < limit("memory-growth.row") or severity == self.told:
            return
        self.told = severity
        total, over = now - self.since[1], look.step - self.since[0]
        yield Finding("memory-growth", "warning" if severity == "warning" else "note",
                      f"Memory grows by {100 * total / over:.0f} MiB every hundred steps",
                      f"{total:.0f} MiB more over {over} steps up to step {look.step}, {now:.0f} MiB in use by the "
                      f"{where} (bound {limit('memory-growth.mb'):g} MiB in each hundred steps)",
                      "Keep numbers, not tensors: loss.item(), outputs.detach().cpu(); empty lists that hold outputs. "
                      "A cache of the data set stops growing after the first epoch", step=look.step)


add(MemoryGrowth, "memory-growth", stage="during", rank=5, cost="one line of /proc at a full look",
    rule="memory does not grow by more than 5 MiB in each of three hundreds of steps (of the process: a note), "
         "and fewer than 20 graphs of old steps are held", course="18.25")
