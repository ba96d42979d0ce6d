"""LARS: momentum SGD in which each layer's rate is proportional to the size of its weights against its gradient.

Paper: You, Gitman, Ginsburg, Large Batch Training of Convolutional Networks, 2017, arXiv:1708.03888, Algorithm 1. As in
its later use, tensors without weight decay (biases, norms: see `parameter_groups`) take the step of plain momentum SGD.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import GroupedOptimizer, check_numbers, norms


class Lars(GroupedOptimizer):
    """v <- momentum v + lr * r * (g + weight_decay x); x <- x - v, r = trust |x| / (|g| + weight_decay |x|), for each
    tensor x by itself.

    trust: how much of a layer's size one step of rate 1 is: 0.001 in the paper, with rates of 10 and more; 0.02 suits
    rates like SGD's. r is 1 where |x| or |g| is 0, and, unless `adapt_all`, for groups whose weight_decay is 0. The
    rate goes into the velocity, as in the paper: a later change of it does not reach back. foreach: see
    `GroupedOptimizer`. State per parameter: momentum_buffer (v). Raises ValueError for values out of range.
    """

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0, *,
                 trust: float = 0.02, adapt_all: bool = False, foreach: bool | None = None):
        check_numbers({"learning rate": lr, "weight_decay": weight_decay, "trust": trust}, {"momentum": momentum})
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust,
                                  "adapt_all": adapt_all, "foreach": foreach})

    def update(self, tensors: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        velocities, decay = self.remembered(tensors, "momentum_buffer"), group["weight_decay"]
        updates = list(torch._foreach_add(gradients, tensors, alpha=decay)) if decay else gradients
        torch._foreach_mul_(velocities, group["momentum"])
        if decay or group["adapt_all"]:
            sizes, slopes = norms(tensors), norms(gradients)
            ratios = torch.where((sizes > 0) & (slopes > 0), group["trust"] * sizes / (slopes + decay * sizes), 1.0)
            torch._foreach_addcmul_(velocities, updates, [ratio.to(update.dtype) for ratio, update in
                                                          zip(ratios.unbind(), updates, strict=True)],
                                    value=group["lr"])
        else:
            torch._foreach_add_(velocities, updates, alpha=group["lr"])
        torch._foreach_sub_(tensors, velocities)
