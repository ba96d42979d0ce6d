"""AdamW on the CPU by torch's fused kernel, without the bookkeeping around it, which for small nets takes longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class FusedAdamW(torch.optim.AdamW):
    """torch.optim.AdamW(fused=True) to the bit, with its groups and its state; parameters of a group are floating
    point, on one device and of one type. (Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.)"""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            tensors = [p for p in group["params"] if p.grad is not None]
            if not tensors:
                continue
            states = [self.state[p] for p in tensors]
            for p, state in zip(tensors, states, strict=True):
                if "exp_avg" not in state:
                    state.update(step=torch.zeros((), dtype=torch.float32), exp_avg=torch.zeros_like(p),
                                 exp_avg_sq=torch.zeros_like(p))
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                tensors, [p.grad for p in tensors], [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states], [], steps, lr=group["lr"], beta1=group["betas"][0],
                beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False,
                maximize=False, grad_scale=scale, found_inf=overflow)
            if overflow is not None:
                torch._foreach_sub_(steps, [overflow] * len(steps))
        return loss
