"""LAMB: Adam's direction, at a length that each layer's weights set.

Paper: You et al., Large Batch Optimization for Deep Learning, ICLR 2020, arXiv:1904.00962, Algorithm 2, phi(z) = z.
As in the authors' own code, layers without weight decay (biases, norms, embeddings: see `parameter_groups`) take Adam's
step as it is. Clipping by the global norm is the loop's (train.clip_norm), not the optimizer's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import GroupedOptimizer, check_numbers, norms


class Lamb(GroupedOptimizer):
    """x <- x - lr * (|x| / |u|) u, u = m / (sqrt(v) + eps) + weight_decay * x, for each tensor x by itself.

    m, v: averages of the gradient and of its square (decays `betas`), each divided by 1 - beta^t. The ratio is 1 where
    |x| or |u| is 0, and, unless `adapt_all`, for groups whose weight_decay is 0. foreach: one kernel for all tensors
    of a group (None: on all devices but the CPU, where small tensors alone go together). Raises ValueError for values
    out of range. State per parameter: step, exp_avg, exp_avg_sq, as torch's Adam has it.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.0, *, adapt_all: bool = False, foreach: bool | None = None):
        check_numbers({"learning rate": lr, "epsilon": eps, "weight_decay": weight_decay},
                      {"beta parameter at index 0": betas[0], "beta parameter at index 1": betas[1]})
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "adapt_all": adapt_all, "foreach": foreach})

    def update(self, tensors: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p in tensors:
            self.state[p].setdefault("step", torch.zeros(()))
            self.state[p]["step"] += 1
        steps = [float(self.state[p]["step"]) for p in tensors]
        means, squares = self.remembered(tensors, "exp_avg"), self.remembered(tensors, "exp_avg_sq")
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)  # both corrections go into the denominator: one pass less
        torch._foreach_mul_(roots, [(1 - beta1**t) / (1 - beta2**t) ** 0.5 for t in steps])
        torch._foreach_add_(roots, [group["eps"] * (1 - beta1**t) for t in steps])
        updates = list(torch._foreach_div(means, roots))
        if group["weight_decay"]:
            torch._foreach_add_(updates, tensors, alpha=group["weight_decay"])
        if group["weight_decay"] or group["adapt_all"]:
            torch._foreach_addcmul_(tensors, updates, _trust_ratios(tensors, updates), value=-group["lr"])
        else:
            torch._foreach_add_(tensors, updates, alpha=-group["lr"])


def _trust_ratios(tensors: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """|x| / |u| of each pair, a scalar; 1 where either is 0. No wait for the device."""
    weights, lengths = norms(tensors), norms(updates)
    ratios = torch.where((weights > 0) & (lengths > 0), weights / lengths, 1.0)
    return [ratio.to(update.dtype) for ratio, update in zip(ratios.unbind(), updates, strict=True)]
