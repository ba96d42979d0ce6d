"""Lookahead: fast weights run ahead, slow weights follow them part of the way, and the fast ones start again there.

Paper: Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, NeurIPS 2019, arXiv:1907.08610, Algorithm 1. The
slow weights are what is evaluated and kept (`KeptWeights`); the state of the inner optimizer stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from visus.optim.wrapped import Wrapped


class Lookahead(Wrapped):
    """Every `every` steps of `base`: slow <- slow + share * (x - slow); x <- slow. The slow weights begin as the first
    x.

    State per parameter: that of `base`, and slow. The count of steps is kept in the groups. Raises ValueError for
    values out of range.
    """

    keeps = "slow"

    def __init__(self, base: torch.optim.Optimizer, every: int = 5, share: float = 0.5):
        if every < 1 or not 0 < share <= 1:
            raise ValueError(f"Invalid every or share: {every}, {share}; at least 1, and in (0, 1]")
        super().__init__(base)
        self.every, self.share = every, share
        for group in self.param_groups:
            group.setdefault("ahead", 0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of the fast weights, and of the slow ones when it is their turn."""
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        begun = [(p, p.clone()) for p in moved if "slow" not in self.state.get(p, ())]
        loss = self.base.step(closure) if closure is not None else self.base.step()
        for p, first in begun:  # after the base's own first step: some take a state that is not empty for a begun one
            self.state[p]["slow"] = first
        for group in self.param_groups:
            group["ahead"] = (group["ahead"] + 1) % self.every
        if self.param_groups[0]["ahead"] == 0:
            pairs = [(p, s["slow"]) for p, s in self.state.items() if "slow" in s]
            if pairs:
                fast, slow = map(list, zip(*pairs, strict=True))
                torch._foreach_lerp_(slow, fast, self.share)
                torch._foreach_copy_(fast, slow)
        return loss
