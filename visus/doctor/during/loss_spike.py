"""The loss climbs above where it began, or throws what was learnt away.

Single high losses are no fault: small batches have them, most of all when the rest is learnt. Five steps together are
judged: three times the loss of the beginning is divergence; above the beginning after it had come down to half is a
spike that undid the training.
Source: reliability.md R8 (S > 3 S_0); CS231n, neural networks 3 (loss curves).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from statistics import median

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

TOGETHER = 5


class LossSpike:
    def __init__(self) -> None:
        self.first: list[float] = []
        self.recent: deque[float] = deque(maxlen=TOGETHER)
        self.smooth: float | None = None
        self.lowest = math.inf
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        loss = look.loss
        if loss is None or self.told or not math.isfinite(loss):
            return
        if not self.first:
            self.first.append(loss)
        self.recent.append(loss)
        self.smooth = loss if self.smooth is None else 0.9 * self.smooth + 0.1 * loss
        self.lowest = min(self.lowest, self.smooth)
        if len(self.recent) < TOGETHER or self.first[0] <= 0:
            return
        start, now = self.first[0], median(self.recent)
        if min(self.recent) > limit("loss-spike.diverged") * start:
            self.told = True
            yield Finding("loss-spike", "error", f"The loss has risen to {now / start:.3g} times its start",
                          f"the last {TOGETHER} steps have a median of {now:.4g}, the first had {start:.4g} (bound "
                          f"{limit('loss-spike.diverged'):g} times); learning rate {look.lr}",
                          "Lower the learning rate by 10, warm it up over the first steps, clip the gradient",
                          step=look.step)
        elif self.lowest < limit("loss-spike.learnt") * start and now > limit("loss-spike.back") * start:
            self.told = True
            yield Finding("loss-spike", "warning", f"The loss jumped back above its start at step {look.step}",
                          f"the last {TOGETHER} steps have a median of {now:.4g}; it began at {start:.4g} and had come "
                          f"down to {self.lowest:.4g}; learning rate {look.lr}",
                          "Clip the gradient (torch.nn.utils.clip_grad_norm_), lower the learning rate, and look at "
                          "the batches of these steps", step=look.step)


add(LossSpike, "loss-spike", stage="during", rank=6, symptom=True, cost="the loss of each step",
    rule="five losses in a row are not all above 3 times the first, nor their median above it once the loss has halved",
    course="18.06, C2.3")
