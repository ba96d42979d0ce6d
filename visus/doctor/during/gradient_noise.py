"""How large a batch is worth while: the simple noise scale.

Squared norms of the gradient over few (b) and over many samples (B) give the true gradient's squared norm and the
trace of the gradients' covariance S without bias:

    G2 = (B |g_B|^2 - b |g_b|^2) / (B - b)        S = (|g_b|^2 - |g_B|^2) / (1 / b - 1 / B)

Both are averaged over steps, then divided: S / G2 samples is where a larger batch begins to pay little. The two norms
come from the first pass and the sum of an accumulated step, or from the two halves of a batch in the last linear layer.
Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.2 and appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class GradientNoise:
    when = "full"

    def __init__(self) -> None:
        self.pairs: list[tuple[float, float]] = []
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        measured = facts.get("noise")
        if measured is None or self.told:
            return
        few, small, many, large = measured
        if not 0 < few < many or not (math.isfinite(small) and math.isfinite(large)):
            return
        self.pairs.append(((many * large - few * small) / (many - few), (small - large) / (1 / few - 1 / many)))
        scale = self.scale
        if len(self.pairs) < limit("gradient-noise.measurements"):
            return
        self.told = True
        if scale is None:
            said, advice = "the mean gradient is lost in the noise", "Average more samples to see it at all"
        else:
            ratio = many / scale
            said = f"{scale:.3g} samples; a batch has {many}, {ratio:.2g} times that"
            advice = "A smaller batch with more steps would learn as much from fewer samples" if ratio > 4 else \
                "A larger batch, with a rate raised in proportion, would take fewer steps" if ratio < 0.25 else \
                "The batch is of the right order"
        yield Finding("gradient-noise", "note", "Noise scale of the gradient: "
                      + ("larger than can be measured" if scale is None else f"about {scale:.2g} samples"),
                      f"{said}; from {len(self.pairs)} looks up to step {look.step} with {few} and {many} samples",
                      advice, step=look.step)

    @property
    def scale(self) -> float | None:
        """S / G2 in samples; None where the estimate of the true gradient is not positive."""
        true = sum(pair[0] for pair in self.pairs)
        return sum(pair[1] for pair in self.pairs) / true if true > 0 else None


add(GradientNoise, "gradient-noise", stage="during", rank=9, symptom=True, cost="two small matrices at a full look",
    rule="says the simple noise scale beside the batch size", course="18.09")
