"""Weights that get no gradient although they are to be trained.

At step 5 and not at step 0: a last layer that starts at zero gives the layers before it a zero gradient once. None:
nothing that the loss depends on goes through the tensor (detached, not used, or a copy was used). Exactly zero: the
path is there, and something on it multiplies by zero (dead units, a mask).
Source: reliability.md R2, recalibrated there from "at step 0" to "at step 5".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class MissingGradient:
    when = "full"

    def __init__(self) -> None:
        self.always: set[str] | None = None
        self.order: list[str] = []
        self.looks = 0

    def __call__(self, look: Look) -> Iterator[Finding]:
        facts: Mapping[str, Any] = look.facts
        if self.looks > limit("missing-gradient.step") or look.loss == 0 or facts.get("no_gradients") \
                or "missing" not in facts:
            return
        missing = [str(name) for name in facts["missing"]]
        self.looks += 1
        self.always = set(missing) if self.always is None else self.always & set(missing)
        if self.looks != limit("missing-gradient.step") or not self.always:
            return
        names = [name for name in missing if name in self.always]
        weights = [name for name in names if name.removesuffix(".weight") in look.layers]
        shown = weights or names
        yield Finding("missing-gradient", "error" if weights else "note",
                      f"{len(names)} tensors get no gradient: " + ", ".join(shown[:3])
                      + (" ..." if len(shown) > 3 else ""),
                      f"their gradient was None or exactly 0 in each of the first {self.looks} looks, up to step "
                      f"{look.step}; {len(weights)} of them are weights, of {len(look.layers)} layers in all",
                      "Look for .detach(), torch.no_grad(), .data or .item() behind this layer, and whether forward "
                      "uses it; freeze it with requires_grad_(False) if it is not to be trained",
                      step=look.step, layer=shown[0].removesuffix(".weight"))


add(MissingGradient, "missing-gradient", stage="during", rank=3, cost="a norm of each gradient at five looks",
    rule="after five looks every weight tensor that is to be trained has had a gradient that is not exactly 0",
    course="18.13, C2.3")
