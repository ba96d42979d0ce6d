"""LAMB: Adam's direction, at a length that each layer's weights set.

Paper: You et al., Large Batch Optimization for Deep Learning, ICLR 2020, arXiv:1904.00962, Algorithm 2, phi(z) = z.
As in the authors' own code, layers without weight decay (biases, norms, embeddings: see `parameter_groups`) take Adam's
step as it is. Clipping by the global norm is the loop's (train.clip_norm), not the optimizer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """x <- x - lr * (|x| / |u|) u, u = m / (sqrt(v) + eps) + weight_decay * x, for each tensor x by itself.

    m, v: averages of the gradient and of its square (decays `betas`), each divided by 1 - beta^t. The ratio is 1 where
    |x| or |u| is 0, and, unless `adapt_all`, for groups whose weight_decay is 0. foreach: one kernel for all tensors
    of a group (None: on all devices but the CPU, where tensor by tensor is faster). Raises ValueError for values out
    of range. State per parameter: step, exp_avg, exp_avg_sq, as torch's Adam has it.
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.0, *, adapt_all: bool = False, foreach: bool | None = None):
        for name, value in (("learning rate", lr), ("epsilon", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"Invalid {name}: {value}")
        for number, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {number}: {beta}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "adapt_all": adapt_all, "foreach": foreach})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            tensors = [p for p in group["params"] if p.grad is not None]
            for p in tensors:
                if not self.state[p]:
                    self.state[p].update(step=torch.zeros(()), exp_avg=torch.zeros_like(p),
                                         exp_avg_sq=torch.zeros_like(p))
                self.state[p]["step"] += 1
            together = group["foreach"]
            if together is None:
                together = all(p.device.type != "cpu" for p in tensors)
            for part in ([tensors] if together and tensors else [[p] for p in tensors]):
                self._update(part, group)
        return loss

    def _update(self, tensors: list[Tensor], group: dict[str, Any]) -> None:
        (beta1, beta2), states = group["betas"], [self.state[p] for p in tensors]
        gradients = [p.grad for p in tensors if p.grad is not None]  # all of them
        steps = [float(state["step"]) for state in states]
        means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
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
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    weights = torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))
    lengths = torch.stack(torch._foreach_norm(updates, 2, dtype=dtype))
    ratios = torch.where((weights > 0) & (lengths > 0), weights / lengths, 1.0)
    return [ratio.to(update.dtype) for ratio, update in zip(ratios.unbind(), updates, strict=True)]
