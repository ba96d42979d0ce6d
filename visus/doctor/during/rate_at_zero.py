"""The learning rate has gone to nothing while the training goes on.

A schedule that counts epochs and is stepped once a batch ends in the first epoch, or swings up and down; one that was
built for fewer steps ends early; one that starts at zero and is stepped once an epoch wastes the first.
Source: PyTorch's documentation of lr_scheduler; EECS498 lecture 11 (schedules).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class RateAtZero:
    def __init__(self) -> None:
        self.peak = 0.0
        self.first: int | None = None
        self.low_since: int | None = None
        self.turns: list[int] = []
        self.was_low = False
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        rate = facts.get("lr", look.lr)
        if rate is None or self.told:
            return
        rate = float(rate)
        self.first = look.step if self.first is None else self.first
        self.peak = max(self.peak, rate)
        done = look.step - self.first + 1
        if rate <= limit("rate-at-zero.ratio") * self.peak:
            self.low_since = look.step if self.low_since is None else self.low_since
            low = look.step - self.low_since + 1
            if low >= limit("rate-at-zero.steps") and low >= limit("rate-at-zero.share") * done:
                self.told = True
                yield self._gone(look, rate, low)
                return
        else:
            self.low_since = None
        yield from self._swing(look, rate)

    def _gone(self, look: Look, rate: float, low: int) -> Finding:
        if self.peak == 0:
            return Finding("rate-at-zero", "error", "The learning rate is 0 since the start",
                           f"{low} updates with rate 0, up to step {look.step}",
                           "A warm-up must be stepped once an update: scheduler.step() after optimizer.step(), or "
                           "begin above 0", step=look.step)
        return Finding("rate-at-zero", "error", f"The learning rate has fallen to {rate:.1e} and the training goes on",
                       f"{low} updates up to step {look.step} at {rate:.1e}, {rate / self.peak:.0e} of the highest "
                       f"rate, {self.peak:g} (bound {limit('rate-at-zero.ratio'):g})",
                       "Step a schedule that counts epochs once an epoch, or give it the number of updates: T_max = "
                       "epochs * len(loader). Check the last step of the schedule against the length of the training",
                       step=look.step)

    def _swing(self, look: Look, rate: float) -> Iterator[Finding]:
        """Down below a tenth of the peak and up above half of it, again and again within few steps."""
        if rate < 0.1 * self.peak:
            self.was_low = True
        elif rate > 0.5 * self.peak and self.was_low:
            self.was_low = False
            self.turns.append(look.step)
            if len(self.turns) > 3 and self.turns[-1] - self.turns[-4] < 3 * limit("rate-at-zero.period"):
                self.told = True
                yield Finding("rate-at-zero", "warning", "The learning rate swings up and down every "
                              f"{(self.turns[-1] - self.turns[-4]) / 3:.0f} updates",
                              f"it rose from below a tenth to above half of {self.peak:g} at steps "
                              + ", ".join(map(str, self.turns[-4:])),
                              "This is a schedule for epochs that is stepped once a batch: move scheduler.step() out "
                              "of the loop over batches", step=look.step)


add(RateAtZero, "rate-at-zero", stage="during", rank=1, cost="nothing: the rate of each step",
    rule="the rate is not below 5e-5 of its peak for 20 updates and a tenth of the training so far, nor does it swing "
         "within 100 updates", course="18.11, C2.3")
