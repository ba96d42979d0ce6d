"""Averaged stochastic gradient descent: long steps, and the plain mean of the weights that they go through.

Sources: Polyak and Juditsky 1992; Bottou, Stochastic Gradient Descent Tricks, 2012, section 5.3 (rates, and when the
mean begins); Xu 2011, arXiv:1107.2490. torch.optim.ASGD has one number for weight decay and for the fall of the rate:
a bias that does not decay would keep its rate; here they are two. With equal numbers both give the same weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import GroupedOptimizer, check_numbers


class AveragedSGD(GroupedOptimizer):
    """In step t = 0, 1, ...: x <- x - r (g + weight_decay x), r = lr (1 + rate_decay lr t)^-power; then the mean
    a <- a + (x - a) / max(1, t + 1 - start).

    rate_decay: None: the largest weight decay of the groups, Bottou's lambda. power: 3/4 for the mean to be the best
    (1, without a mean: plain SGD of his section 5.2). start: steps before the mean begins; until then a is x. The mean
    is what is used (`KeptWeights`). State per parameter: step, average. Raises ValueError for values out of range.
    """

    keeps = "average"

    def __init__(self, params: Any, lr: float = 0.01, weight_decay: float = 0.0, *, rate_decay: float | None = None,
                 power: float = 0.75, start: int = 100, foreach: bool | None = None):
        check_numbers({"learning rate": lr, "weight_decay": weight_decay, "rate_decay": rate_decay or 0.0,
                       "power": power, "start": start}, {})
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "power": power, "start": start,
                                  "rate_decay": 0.0, "foreach": foreach})
        falls = max(group["weight_decay"] for group in self.param_groups) if rate_decay is None else rate_decay
        for group in self.param_groups:
            group["rate_decay"] = falls

    def update(self, tensors: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        lr = group["lr"]
        for p in tensors:
            self.state[p].setdefault("step", torch.zeros(()))
        steps = [float(self.state[p]["step"]) for p in tensors]
        rates = [lr * (1 + group["rate_decay"] * lr * t) ** -group["power"] for t in steps]
        if group["weight_decay"]:
            torch._foreach_mul_(tensors, [1 - rate * group["weight_decay"] for rate in rates])
        for p, gradient, rate, t in zip(tensors, gradients, rates, steps, strict=True):
            p.add_(gradient, alpha=-rate)
            share = 1 / max(1.0, t + 1 - group["start"])
            if share == 1:
                self.state[p]["average"] = p.detach().clone()
            else:
                self.state[p]["average"].lerp_(p, share)
            self.state[p]["step"] += 1
