"""The training waits for its data.

The share of the wall time between two updates that goes by before the forward pass begins: loading, decoding,
augmenting, moving to the device. The processor or the GPU idles meanwhile. It costs time and no accuracy; below ten
milliseconds a step it is not worth a word.
Source: EECS498 lecture 9 (hardware); reliability.md R5.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

SKIPPED = 5  # the first steps start workers and caches


class DataWait:
    def __init__(self) -> None:
        self.steps = 0
        self.waited = self.seconds = 0.0
        self.samples = 0
        self.told = ""

    def __call__(self, look: Look) -> Iterator[Finding]:
        if look.waited_s is None or not look.seconds or self.told == "warning":
            return
        self.steps += 1
        if self.steps <= SKIPPED:
            return
        self.waited += look.waited_s
        self.seconds += look.seconds
        self.samples += look.samples
        counted = self.steps - SKIPPED
        if counted % int(limit("data-wait.steps")) or self.waited / counted < limit("data-wait.seconds"):
            return
        share = self.waited / self.seconds
        severity = "warning" if share > limit("data-wait.warning") else "note"
        if share <= limit("data-wait.note") or severity == self.told:
            return
        self.told = severity
        rate, without = self.samples / self.seconds, self.samples / max(1e-9, self.seconds - self.waited)
        yield Finding("data-wait", "warning" if severity == "warning" else "note",
                      f"{100 * share:.0f} % of the time goes by waiting for data",
                      f"{1000 * self.waited / counted:.0f} ms of {1000 * self.seconds / counted:.0f} ms a step, over "
                      f"{counted} steps up to step {look.step} (bound {100 * limit('data-wait.' + severity):g} %); "
                      f"{rate:.0f} samples a second, {without:.0f} without the wait",
                      "Give the loader workers (num_workers=4, persistent_workers=True, pin_memory=True on a GPU), "
                      "decode at the size that is used, keep decoded images in memory", step=look.step)


add(DataWait, "data-wait", stage="during", rank=3, cost="nothing: two clock readings a step",
    rule="of 20 steps at most 20 % (warning: 50 %) of the time is waiting for data, and less than 10 ms a step",
    course="18.25")
