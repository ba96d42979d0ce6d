"""L-BFGS for the loop: torch's own, with weight decay, for parameters that are frozen, grouped or without gradient.

Source: Liu and Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, 1989; step lengths by the
strong Wolfe conditions (Nocedal and Wright, chapter 3). From step to step the function should stay much the same: full
batches, or big ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import number

ITERATIONS = 4  # of one update: as many new directions, all on the same batch
SEARCH = 25  # most evaluations for each, as in torch's line search


class LBFGS(torch.optim.LBFGS):
    """`iterations` of L-BFGS in each step, each with its own line search that begins at length lr.

    params: parameters, or groups of which only weight_decay counts: the loss is taken with the price
    weight_decay / 2 |x|^2. history: how many pairs of steps and changes of the gradient are remembered, from step to
    step too: on a new batch the first pair mixes two batches, which big batches bear.
    """

    needs_closure = True

    def __init__(self, params: Any, lr: float = 1.0, weight_decay: float = 0.0, *, history: int = 10,
                 iterations: int = ITERATIONS):
        rows = list(params)
        groups: list[dict[str, Any]] = [dict(row) if isinstance(row, Mapping) else {"params": [row]} for row in rows]
        decayed = [(list(group["params"]) if not isinstance(group["params"], Tensor) else [group["params"]],
                    float(group.get("weight_decay", weight_decay))) for group in groups]
        if not lr >= 0 or not all(decay >= 0 for _, decay in decayed) or history < 1 or iterations < 1:
            raise ValueError(f"Invalid lr, weight_decay, history or iterations: {lr}, {weight_decay}, {history}, "
                             f"{iterations}")
        super().__init__([p for tensors, _ in decayed for p in tensors], lr=lr, max_iter=iterations,
                         max_eval=SEARCH * iterations, history_size=history,
                         line_search_fn="strong_wolfe", tolerance_grad=0.0, tolerance_change=1e-12)
        self.decays = [(p, decay) for tensors, decay in decayed for p in tensors if decay]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """One update. -> the loss before it, with its price."""

        @torch.enable_grad()
        def priced() -> float:
            loss = number(closure())
            with torch.no_grad():
                for p, decay in self.decays:
                    loss += 0.5 * decay * float(p.square().sum())
                    if p.grad is not None:
                        p.grad.add_(p, alpha=decay)
            return loss

        return super().step(priced)
