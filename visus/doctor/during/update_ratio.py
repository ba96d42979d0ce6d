"""How far an update moves the weights: too far at the start, not at all, or hardly.

The norm of the last update over the norm of the weights, by weight tensor, and the median over tensors. About 1e-3 is
the courses' guide line; healthy nets lie between 2.5e-4 and 3e-2, so only what is far outside is told. The learning
rate scales the update: the advice is the rate that would give 1e-3. Slow updates are no fault where the loss has come
down, or while the schedule holds the rate low.
Source: CS231n, neural networks 3 (ratio of weights to updates); reliability.md R1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Literal

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit

FIRST = 4  # looks that count as early
LATER = 25  # steps after which the weights have found their size
LOOKS = 5  # of the later ones that are read together


class UpdateRatio:
    when = "full"

    def __init__(self) -> None:
        self.early: list[float] = []
        self.recent: deque[float] = deque(maxlen=LOOKS)
        self.later: deque[float] = deque(maxlen=LOOKS)
        self.told_still = False
        self.peak = 0.0
        self.begun: int | None = None
        self.first_loss: float | None = None
        self.still: dict[str, int] = {}

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        ratios = {name: layer.ratio for name, layer in look.layers.items() if layer.ratio is not None}
        rate = float(facts.get("lr", look.lr or 0.0) or 0.0)
        self.peak = max(self.peak, rate)
        self.first_loss = look.loss if self.first_loss is None else self.first_loss
        if not ratios or rate == 0.0 or facts.get("skipped") or facts.get("no_gradients"):
            return
        middle, advice = median(ratios.values()), limit("update-ratio.aim")
        if len(self.early) < FIRST:
            self.early.append(middle)
            if middle > limit("update-ratio.early"):
                yield self._far("error", look, middle, limit("update-ratio.early"), rate)
            return
        self.recent.append(middle)
        if len(self.recent) == LOOKS and median(self.recent) > limit("update-ratio.early"):
            yield self._far("error", look, median(self.recent), limit("update-ratio.early"), rate)
        if rate >= 0.1 * self.peak:
            yield from self._standing(look, ratios)
        self.begun = look.step if self.begun is None else self.begun
        if look.step - self.begun < LATER:
            return
        self.later.append(middle)
        if len(self.later) < LOOKS or rate < 0.1 * self.peak:
            return
        typical = median(self.later)
        if typical > limit("update-ratio.high"):
            yield self._far("warning", look, typical, limit("update-ratio.high"), rate)
        learnt = look.loss is None or self.first_loss is None or look.loss < 0.5 * self.first_loss
        if 0 < typical < limit("update-ratio.low") and not learnt:
            yield Finding("update-ratio", "warning", f"An update moves the weights by {typical:.1e} of their size only",
                          f"median over {len(ratios)} weight tensors: {typical:.1e} (bound "
                          f"{limit('update-ratio.low'):g}, guide line {advice:g}), at a learning rate of {rate:g}; the "
                          f"loss is {look.loss:.3g}, it began at {self.first_loss:.3g}",
                          f"Raise the learning rate: {rate * advice / typical:.1e} would move them by {advice:g}",
                          step=look.step)

    def _far(self, severity: Literal["error", "warning"], look: Look, ratio: float, bound: float,
             rate: float) -> Finding:
        aim = limit("update-ratio.aim")
        return Finding("update-ratio", severity, f"One update changes the weights by {100 * ratio:.3g} % of their size",
                       f"median over the weight tensors at step {look.step}: {ratio:.2g} (bound {bound:g}, guide line "
                       f"{aim:g}), at a learning rate of {rate:g}",
                       f"Lower the learning rate: {rate * aim / ratio:.1e} would move them by {aim:g} (lr={rate:g} "
                       f"now)",
                       step=look.step)

    def _standing(self, look: Look, ratios: dict[str, float]) -> Iterator[Finding]:
        """Tensors that have a gradient and did not change at all, three looks in a row."""
        moving = [name for name, ratio in ratios.items() if ratio > 0]
        for name, ratio in ratios.items():
            gradient = look.layers[name].gradient
            self.still[name] = self.still.get(name, 0) + 1 if ratio == 0 and gradient else 0
        still = [name for name, count in self.still.items() if count >= 3]
        if still and not self.told_still:
            self.told_still = True
            facts: Mapping[str, Any] = look.facts
            held = {name.removesuffix(".weight") for name in facts.get("not_held", ())}
            absent = [name for name in still if name in held]
            why = "the optimizer does not hold them" if len(absent) == len(still) else \
                "the update is zero, or lost in rounding"
            yield Finding("update-ratio", "error" if not moving or absent else "warning",
                          f"{len(still)} of {len(ratios)} weight tensors do not move: " + ", ".join(still[:3]),
                          f"they have a gradient, and the update is exactly 0 at three looks up to step {look.step}; "
                          + why, "Build the optimizer from model.parameters() after every change of the model, or "
                          "freeze them with requires_grad_(False) if that is meant", step=look.step, layer=still[0])


add(UpdateRatio, "update-ratio", stage="during", rank=4, cost="a norm of each weight tensor at a full look",
    rule="the median of norm(update) / norm(weights) is at most 0.3 at first and in five looks, later between 1e-5 and "
         "0.1; no tensor with a gradient stands still", course="18.08, C2.3")
