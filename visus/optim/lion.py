"""Lion: every number moves by the same amount, in the direction that the sign of a momentum gives.

Paper: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, arXiv:2302.06675, Algorithm 2. Its rates are 3
to 10 times smaller than AdamW's, its weight decay as much larger (section 5 there). Half of Adam's memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import GroupedOptimizer, check_numbers


class Lion(GroupedOptimizer):
    """x <- x - lr * (sign(b1 m + (1 - b1) g) + weight_decay * x); then m <- b2 m + (1 - b2) g, with betas = (b1, b2).

    foreach: see `GroupedOptimizer`. State per parameter: exp_avg (m). Raises ValueError for values out of range.
    """

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99),
                 weight_decay: float = 0.0, *, foreach: bool | None = None):
        check_numbers({"learning rate": lr, "weight_decay": weight_decay},
                      {"beta parameter at index 0": betas[0], "beta parameter at index 1": betas[1]})
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach})

    def update(self, tensors: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), means = group["betas"], self.remembered(tensors, "exp_avg")
        signs = torch._foreach_lerp(means, gradients, 1 - beta1)
        torch._foreach_sign_(signs)
        if group["weight_decay"]:
            torch._foreach_mul_(tensors, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(tensors, signs, alpha=-group["lr"])
        torch._foreach_lerp_(means, gradients, 1 - beta2)
