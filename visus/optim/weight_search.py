"""Learning without gradients: weights are drawn, and kept where the loss is smaller. A lower bound for everything else.

Source: CS231n notes, Optimization, strategies 1 (random search) and 2 (random local search). Both compare on the batch
at hand: with full batches the loss never rises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import number


class _WeightSearch(torch.optim.Optimizer, ABC):
    """`tries` candidates in each step, all on one batch. The draws are a function of the seed and of how many there
    were before, which travels in the groups."""

    needs_closure = True

    def __init__(self, params: Any, lr: float, *, tries: int = 1, seed: int = 0):
        if not lr > 0 or tries < 1:
            raise ValueError(f"Invalid lr or tries: {lr}, {tries}; above 0, and at least 1")
        super().__init__(params, {"lr": lr, "drawn": 0})
        self.tries, self.seed = tries, seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """-> the loss of the weights that stay. A loss that is not a number is never better."""
        assert closure is not None, "candidates are compared by their loss"
        look = torch.enable_grad()(closure)
        best = number(look())
        for _ in range(self.tries):
            before = [[p.clone() for p in group["params"]] for group in self.param_groups]
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.param_groups[0]["drawn"])
            for group in self.param_groups:
                group["drawn"] += 1
                for p in group["params"]:
                    noise = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
                    p.copy_(self.candidate(p, noise, group["lr"]))
            loss = number(look())
            if loss < best:
                best = loss
            else:
                for group, kept in zip(self.param_groups, before, strict=True):
                    for p, x in zip(group["params"], kept, strict=True):
                        p.copy_(x)
        return best

    @abstractmethod
    def candidate(self, p: Tensor, noise: Tensor, lr: float) -> Tensor:
        """What is tried in the place of p. noise: standard normal, of its shape."""


class RandomSearch(_WeightSearch):
    """Each candidate is drawn anew: mean + lr * deviation * noise, with the mean and the standard deviation that the
    tensor had when the search began (biases of 0 stay 0, scales of 1 stay 1). State per parameter: mean, deviation."""

    def __init__(self, params: Any, lr: float = 1.0, *, tries: int = 1, seed: int = 0):
        super().__init__(params, lr, tries=tries, seed=seed)

    def candidate(self, p: Tensor, noise: Tensor, lr: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["mean"], state["deviation"] = p.mean(), p.std(correction=0)
        return state["mean"] + lr * state["deviation"] * noise


class LocalSearch(_WeightSearch):
    """Each candidate is a step from the best weights so far: x + lr * noise."""

    def __init__(self, params: Any, lr: float = 0.01, *, tries: int = 1, seed: int = 0):
        super().__init__(params, lr, tries=tries, seed=seed)

    def candidate(self, p: Tensor, noise: Tensor, lr: float) -> Tensor:
        return p + lr * noise
