"""Half precision overflows: steps are skipped again and again, or the outputs come near its largest number.

A loss scale that starts too high skips a few steps at first; that is how it finds its place. Later skips, three in a
row, or a scale below 1 mean that the gradients themselves do not fit. Half precision ends at 65,504.
Source: Micikevicius et al. 2018, arXiv:1710.03740; reliability.md R6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

SETTLED = 200  # steps after which the loss scale has found its place
REMEDY = "Use bf16 (torch.autocast(..., dtype=torch.bfloat16)) or fp32, clip the gradient, lower the learning rate"


class MixedPrecision:
    def __init__(self) -> None:
        self.steps = self.skips = self.row = 0
        self.half = False
        self.told: set[str] = set()

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        peak: Any = facts.get("fp16_peak")
        if peak is not None and "peak" not in self.told and peak[1] > limit("mixed-precision.peak"):
            self.told.add("peak")
            name, value = peak
            yield Finding("mixed-precision", "warning", f"The outputs of {name} come near the end of half precision",
                          f"largest {value:.0f} at step {look.step} (bound {limit('mixed-precision.peak'):g}, the end "
                          "is 65504)", REMEDY, step=look.step, layer=str(name))
        kind = facts.get("weight_type")
        self.half = self.half if kind is None else str(kind).endswith("float16") and "bfloat" not in str(kind)
        bad = [x for x in (look.loss, look.gradient_norm) if x is not None and not math.isfinite(x)]
        if self.half and bad and "half" not in self.told:
            self.told.add("half")
            yield Finding("mixed-precision", "error", "The weights are in half precision, and it has overflowed",
                          f"at step {look.step} the loss is {look.loss} and the gradient norm {look.gradient_norm}; "
                          "weights and the optimizer's state are float16, which ends at 65504 and at 6e-8",
                          "Keep the weights in fp32: model.float(), and compute the loss under torch.autocast with a "
                          "GradScaler, or in bf16", step=look.step)
        if "scale" not in facts:
            return
        scale, skipped = float(facts["scale"]), int(facts.get("skipped", 0))
        self.steps += 1
        self.row = self.row + skipped if skipped else 0
        if self.steps > SETTLED:
            self.skips += skipped
        late = self.steps - SETTLED
        if "skips" in self.told:
            return
        if scale < limit("mixed-precision.scale"):
            yield self._skips(look, f"the loss scale has fallen to {scale:g} (bound "
                                    f"{limit('mixed-precision.scale'):g})")
        elif self.steps > SETTLED and self.row >= limit("mixed-precision.row"):
            yield self._skips(look, f"{self.row} skips in a row at step {look.step}, scale {scale:g}")
        elif late >= 100 and self.skips > max(2, limit("mixed-precision.skips") * late):
            yield self._skips(look, f"{self.skips} of {late} steps after the first {SETTLED} were skipped (bound "
                              f"{100 * limit('mixed-precision.skips'):g} %), scale {scale:g}")

    def _skips(self, look: Look, evidence: str) -> Finding:
        self.told.add("skips")
        return Finding("mixed-precision", "warning", "Mixed precision overflows: steps are skipped", evidence, REMEDY,
                       step=look.step)


add(MixedPrecision, "mixed-precision", stage="during", rank=2, cost="the loss scale of each step",
    rule="after 200 steps at most 1 % are skipped and never three in a row, the loss scale is at least 1, outputs in "
         "half precision are below 16,000", course="18.13")
