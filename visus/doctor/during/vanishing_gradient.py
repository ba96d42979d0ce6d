"""The gradient fades on its way to the first layers: they do not learn.

The size of a typical entry of the gradient in the first weight tensor of the forward pass over that in the last, median
over five looks. A deep stack of sigmoids loses a factor of four or more a layer; residual connections, normalisation
and ReLU with He's initialisation keep the ratio near one.
Source: reliability.md R3; Glorot & Bengio 2010; CS231n, neural networks 1 (sigmoid).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

LOOKS = 5


class VanishingGradient:
    when = "full"

    def __init__(self) -> None:
        self.ratios: list[float] = []

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        if len(self.ratios) >= LOOKS or facts.get("skipped"):
            return
        given = [(name, layer) for name, layer in look.layers.items() if layer.gradient is not None
                 and layer.std is not None and math.isfinite(layer.gradient)]
        # layers before a frozen or detached part have no gradient at all: missing-gradient tells that
        given = [(name, layer) for name, layer in given if layer.gradient]
        if len(given) < 3:
            return
        (first, a), (last, b) = given[0], given[-1]
        entries: dict[str, int] = facts.get("entries", {})
        self.ratios.append(_entry(a.gradient, entries.get(first)) / max(_entry(b.gradient, entries.get(last)), 1e-300))
        ratio = median(self.ratios)
        if len(self.ratios) == LOOKS and ratio < limit("vanishing-gradient.ratio"):
            yield Finding("vanishing-gradient", "warning",
                          f"The gradient has faded by {1 / max(ratio, 1e-300):.0e} where it reaches {first}",
                          f"a typical entry of the gradient in {first} is {ratio:.1e} of one in {last} (bound "
                          f"{limit('vanishing-gradient.ratio'):g}), median of {LOOKS} looks; {len(given)} layers",
                          "Use ReLU or GELU in place of sigmoid or tanh, He or Xavier initialisation, batch or layer "
                          "norm, or residual connections", step=look.step, layer=first)


def _entry(norm: float | None, entries: int | None) -> float:
    return (norm or 0.0) / math.sqrt(entries or 1)


add(VanishingGradient, "vanishing-gradient", stage="during", rank=3, cost="a norm of each gradient at five looks",
    rule="a typical entry of the first layer's gradient is at least 1e-5 of one of the last layer's",
    course="18.09, C4.7")
