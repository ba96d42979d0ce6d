"""Where the time of a training goes: seconds by part of a step, each second counted once.

The trainer wraps each part of a step in `with clock("forward"):`. Without a profile the clock is `NO_CLOCK`, which
does nothing. Parts may lie in each other: the inner one's time is not the outer one's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

WARMUP_STEPS = 3  # first steps, which allocate, tune and compile
CUDA_EVERY = 10   # of the steps on a GPU, which waits after each part: one in so many
OUTSIDE = ("validation", "checkpoint")  # not of a step
OTHER, BETWEEN = "other", "between epochs"


class Clock(Protocol):
    def __call__(self, part: str) -> AbstractContextManager[Any]:
        """Around a part of a step, or what lies outside of steps. "data" begins a step, "optimizer" completes one."""


def NO_CLOCK(part: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return _NOTHING


_NOTHING = nullcontext()


class StepClock:
    """Sums seconds by part. On a GPU it waits for the device around each part of one step in `every`, as only then the
    parts have a time of their own; the other steps are measured whole.

    seconds: of the steps after the first WARMUP_STEPS, by part, "other" among them, whose sum is the wall time of
    these steps; steps: how many. whole_seconds, whole_steps: of steps that were measured whole. outside: validation,
    checkpoints and what lies between epochs.
    """

    def __init__(self, device: torch.device | None = None, *, every: int | None = None,
                 now: Callable[[], float] = time.perf_counter, wait: Callable[[], object] | None = None):
        cuda = device is not None and device.type == "cuda"
        self.every = every or (CUDA_EVERY if cuda else 1)
        self._wait = wait or ((lambda: torch.cuda.synchronize(device)) if cuda else None)
        self._now = now
        self._warm: dict[str, float] = {}
        self._warm_steps = 0
        self._measured: dict[str, float] = {}
        self._measured_steps = 0
        self.whole_seconds, self.whole_steps = 0.0, 0
        self.outside: dict[str, float] = {}
        self._stack: list[str] = []
        self._asked = OTHER
        self._step: dict[str, float] = {}
        self._complete, self._number = False, 0
        self._waiting = self._wait is not None
        self._last = self._begun = now()

    def __call__(self, part: str) -> StepClock:
        self._asked = part
        return self

    def __enter__(self) -> None:
        part = self._asked
        self._mark()
        if part == "data" and not self._stack:
            self._end_step()
        elif part == "optimizer":
            self._complete = True
        self._stack.append(part)

    def __exit__(self, *exception: object) -> None:
        self._mark()
        self._stack.pop()

    def finish(self) -> None:
        """After the last step."""
        self._mark()
        self._end_step()

    @property
    def seconds(self) -> dict[str, float]:
        return dict(self._measured if self._measured_steps else self._warm)

    @property
    def steps(self) -> int:
        return self._measured_steps or self._warm_steps

    @property
    def wall(self) -> float:
        """Seconds from the making of the clock to its last mark: the sum of all that it counted."""
        return self._last - self._begun

    def _mark(self) -> None:
        if self._waiting and self._wait is not None:
            self._wait()
        now = self._now()
        part = self._stack[-1] if self._stack else OTHER
        found = self.outside if part in OUTSIDE else self._step
        found[part] = found.get(part, 0.0) + now - self._last
        self._last = now

    def _end_step(self) -> None:
        total = sum(self._step.values())
        if not self._complete:
            self.outside[BETWEEN] = self.outside.get(BETWEEN, 0.0) + total
        elif self._number < WARMUP_STEPS:
            _add(self._warm, self._step)
            self._warm_steps += 1
        elif self._number % self.every:
            self.whole_seconds, self.whole_steps = self.whole_seconds + total, self.whole_steps + 1
        else:
            _add(self._measured, self._step)
            self._measured_steps += 1
        self._number += self._complete
        self._complete, self._step = False, {}
        self._waiting = self._number < WARMUP_STEPS or self._number % self.every == 0


def _add(total: dict[str, float], step: dict[str, float]) -> None:
    for part, seconds in step.items():
        total[part] = total.get(part, 0.0) + seconds
