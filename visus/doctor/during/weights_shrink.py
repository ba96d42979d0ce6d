"""Weight decay is stronger than the gradient: the weights shrink and nothing is learnt.

The cosine between an update and minus the weights: 1 where the update does nothing but shrink. That is common, and
right, at the end of a training; while the loss still stands where it began it is the decay that wins.
Source: EECS498 lecture 11 (regularisation too strong); Loshchilov & Hutter 2019, arXiv:1711.05101; measured.
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

LOOKS = 5


class WeightsShrink:
    when = "full"

    def __init__(self) -> None:
        self.cosines: deque[float] = deque(maxlen=LOOKS)
        self.norms: dict[str, float] = {}
        self.first_loss: float | None = None
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        if look.loss is None or self.told:
            return
        self.first_loss = look.loss if self.first_loss is None else self.first_loss
        cosines = facts.get("shrink")
        for name, layer in look.layers.items():
            if layer.weight:
                self.norms.setdefault(name, layer.weight)
        if not cosines:
            return
        self.cosines.append(median(cosines.values()))
        if len(self.cosines) < LOOKS or min(self.cosines) < limit("weights-shrink.cosine") \
                or look.loss < limit("weights-shrink.loss") * self.first_loss:
            return
        left = {name: (look.layers[name].weight or 0.0) / norm for name, norm in self.norms.items()
                if name in look.layers and look.layers[name].weight is not None}
        name = min(left, key=lambda n: left[n])
        if median(left.values()) > limit("weights-shrink.left"):
            return
        self.told = True
        yield Finding("weights-shrink", "error", "Weight decay is stronger than the gradient: the weights shrink",
                      f"at {LOOKS} looks up to step {look.step} the updates point to zero (cosine "
                      f"{median(self.cosines):.2f}, bound {limit('weights-shrink.cosine'):g}); the weights have "
                      f"{100 * median(left.values()):.0f} % of their norm left, {name} {100 * left[name]:.0f} %; the "
                      f"loss is {look.loss:.3g} and began at {self.first_loss:.3g}",
                      "Lower the weight decay: 1e-4 to 5e-4 with SGD, 0.01 to 0.1 with AdamW; learning rate times "
                      "decay is what shrinks the weights at each step", step=look.step, layer=name)


add(WeightsShrink, "weights-shrink", stage="during", rank=2, cost="a product of update and weights at a full look",
    rule="not at five looks in a row a cosine above 0.7 between update and minus the weights, with a tenth of their "
         "norm lost and a loss that has not come down by 10 %", course="18.06, C2.3")
