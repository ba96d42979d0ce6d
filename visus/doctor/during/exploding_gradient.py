"""A gradient that is not finite, or a hundred times larger than before.

Against the running median, and against the first steps too: in a net that has learnt its data the median is tiny, and
one hard sample is a hundred times that without harm. A gradient that is enormous from the first step on, beside the
loss that it comes from, is the other form: a recurrent net over a long sequence, or weights that start too large.
Source: reliability.md R3; Pascanu et al. 2013, arXiv:1211.5063 (clipping); EECS498 lecture 12.
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

WINDOW = 200
FIRST = 10
REMEDY = "Clip it: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before optimizer.step(), and lower the rate"


class ExplodingGradient:
    def __init__(self) -> None:
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.first: list[float] = []
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        norm = look.gradient_norm
        if norm is None or self.told:
            return
        if not math.isfinite(norm):
            if "scale" not in look.facts:  # a loss scale that is too large is lowered, and the step skipped
                self.told = True
                layer = str(look.facts.get("not_finite") or "").removesuffix(".weight")
                yield Finding("exploding-gradient", "error", f"The gradient is not finite at step {look.step}"
                              + (f", first in {layer}" if layer else ""),
                              f"gradient norm {norm}; loss {_said(look.loss)}",
                              "Look for a logarithm, a root or a division of 0 in the loss; " + REMEDY.lower(),
                              step=look.step, layer=layer or None)
            return
        if len(self.first) < FIRST:
            self.first.append(norm)
            loss = max(1.0, abs(look.loss or 0.0))
            if len(self.first) >= 3 and median(self.first) > limit("exploding-gradient.beside-loss") * loss:
                yield self._said(look, f"The gradient is enormous from the start: norm {median(self.first):.3g}",
                                 f"median of the first {len(self.first)} steps, beside a loss of {_said(look.loss)} "
                                 f"(bound {limit('exploding-gradient.beside-loss'):g} times the loss)")
        elif norm > limit("exploding-gradient.first") * max(self.first):  # cheap; the median only then
            usual = median(self.norms)
            if norm > limit("exploding-gradient.times") * usual:
                yield self._said(look, f"The gradient was {norm / max(usual, 1e-300):.0f} times larger than usual at "
                                       f"step "
                                 f"{look.step}", f"norm {norm:.3g}, median of the last {len(self.norms)} steps "
                                 f"{usual:.3g} (bound {limit('exploding-gradient.times'):g} times), largest of the "
                                 f"first {FIRST} steps {max(self.first):.3g}")
        self.norms.append(norm)

    def _said(self, look: Look, title: str, evidence: str) -> Finding:
        self.told = True
        layers = [(layer.gradient, name) for name, layer in look.layers.items() if layer.gradient is not None]
        return Finding("exploding-gradient", "warning", title, evidence, REMEDY, step=look.step,
                       layer=max(layers)[1] if layers else None)


def _said(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


add(ExplodingGradient, "exploding-gradient", stage="during", rank=4, cost="the norm of the gradient at each step",
    rule="the gradient is finite, its norm below 100 times the running median (and 10 times the first steps'), and in "
         "the first steps below 100 times the loss", course="18.13, C4.7")
