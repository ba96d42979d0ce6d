"""Most gradients are clipped: the length of the step is set by the bound, not by the gradient.

A clip is for the rare step that is too long. Without the norm from before the clip, gradients of one and the same norm
tell of it. Adam hardly feels a constant scale and many recipes for transformers clip most steps, so it is a note,
unless the updates that are left are small beside the weights: then the clip is what holds the training up.
Source: reliability.md R3; Pascanu et al. 2013, arXiv:1211.5063.
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


class ClippedSteps:
    def __init__(self) -> None:
        self.norms: deque[tuple[float, float | None]] = deque(maxlen=WINDOW)
        self.told = False
        self.ratio: float | None = None  # median over the tensors, at the last full look

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        if look.gradient_norm is None or self.told:
            return
        ratios = [layer.ratio for layer in look.layers.values() if layer.ratio is not None]
        self.ratio = median(ratios) if ratios else self.ratio
        whole = facts.get("unclipped")
        self.norms.append((look.gradient_norm, None if whole is None else float(whole)))
        if len(self.norms) < WINDOW or look.step % 10:
            return
        bound = max(norm for norm, _ in self.norms)
        clipped = [before for norm, before in self.norms if norm > 0.999 * bound]
        share = len(clipped) / len(self.norms)
        if share <= limit("clipped-steps.share") or bound == 0:
            return
        self.told = True
        known = [before for before in clipped if before is not None]
        times = median(known) / bound if known else None
        starved = self.ratio is not None and self.ratio < limit("clipped-steps.ratio")
        yield Finding("clipped-steps", "warning" if starved else "note", f"{100 * share:.0f} % of the gradients are "
                                                                         f"clipped",
                      f"of {len(self.norms)} steps up to step {look.step}, {len(clipped)} have the norm {bound:.4g} "
                      f"(bound {100 * limit('clipped-steps.share'):g} %)"
                      + (f"; before the clip it is {times:.3g} times that" if times else "")
                      + (f"; an update moves the weights by {self.ratio:.1e} of their size" if self.ratio else ""),
                      "Raise the bound to about the median norm, or lower the learning rate: it is the clip that "
                      "decides how long a step is", step=look.step)


add(ClippedSteps, "clipped-steps", stage="during", rank=7, symptom=True, cost="the norm of the gradient at each step",
    rule="at most half of fifty gradients have the largest norm among them (a warning where updates are below 1e-4 "
         "too)", course="18.13, C4.7")
