"""Sharpness-aware minimisation: the gradient is taken where the loss is worst nearby, the step from where one stands.

Papers: Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021,
arXiv:2010.01412, Algorithm 1 (p = 2); Kwon et al., ASAM, ICML 2021, arXiv:2102.11600, Algorithm 1. Twice the cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from visus.optim.wrapped import Wrapped

FLOOR = 0.01  # ASAM's eta: weights near 0 may move too (section 5 there)


class SAM(Wrapped):
    """The step of `base` from x with the gradient at x + e, e = radius * g / |g|; adaptive: e = radius * t^2 g / |t g|
    with t = |x| + 0.01, number by number. |.|: L2 over all parameters. Where g is 0, e is 0.

    step(closure): the closure gives the loss and sets the gradients, at x and then at x + e; x comes back to the bit.
    It remembers nothing of its own. (ASAM as published leaves biases out of t: here they are in.)
    """

    def __init__(self, base: torch.optim.Optimizer, radius: float = 0.05, *, adaptive: bool = False):
        if not radius > 0:
            raise ValueError(f"Invalid radius: {radius}, must be above 0")
        super().__init__(base)
        if self.needs_closure:
            raise ValueError(f"Invalid base: {type(base).__name__} takes steps of several evaluations")
        self.needs_closure = True
        self.radius, self.adaptive = radius, adaptive

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. -> the loss at x."""
        assert closure is not None, "the gradient is needed at two places"
        with torch.enable_grad():
            loss = closure()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        slopes = [p.grad for p in moved]
        before = [p.clone() for p in moved]
        reach = [x.abs().add_(FLOOR) for x in before] if self.adaptive else None
        scaled = list(torch._foreach_mul(slopes, reach)) if reach is not None else slopes
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
        share = torch.where(length > 0, self.radius / length, 0.0)
        for number, p in enumerate(moved):
            step = scaled[number] * share.to(p.dtype)
            p.add_(step if reach is None else step * reach[number])
        with torch.enable_grad():
            closure()
        for p, x in zip(moved, before, strict=True):
            p.copy_(x)
        self.base.step()
        return loss
