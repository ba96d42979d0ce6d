"""Newton's method for small problems: the step to the minimum of the parabola with the function's slope and curvature.

Sources: Nocedal and Wright, Numerical Optimization, chapter 3; damping as in Levenberg 1944; eigenvalues by their size
as in Dauphin et al., Identifying and Attacking the Saddle Point Problem, 2014, arXiv:1406.2572: a saddle repels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from visus.optim.grouped import number

MOST = 1000  # numbers: their Hessian takes twice as many gradients, and the third power of it in time


def newton_step(function: Callable[[Tensor], Tensor], x: Tensor, *, damping: float = 0.0) -> Tensor:
    """x - (|H| + damping)^-1 g, exact for a quadratic function without damping.

    function: [D] -> a scalar, twice differentiable by torch. H: its Hessian by torch.func; |H|: with the sizes of its
    eigenvalues; those below 1e-12 of the largest are left out (no step along a valley floor)."""
    gradient = torch.func.grad(function)(x)
    return x - _solve(torch.func.jacrev(torch.func.grad(function))(x), gradient, damping)


def newton(function: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 50, damping: float = 0.0,
           tolerance: float = 1e-10) -> list[Tensor]:
    """The points of a descent, `start` first: Newton steps, halved until the function falls enough (Armijo, 1e-4); it
    ends when the slope is below `tolerance`, or when no step lowers the function."""
    path = [start.detach().clone()]
    for _ in range(steps):
        x = path[-1]
        gradient, value = torch.func.grad_and_value(function)(x)
        if gradient.abs().max() <= tolerance:
            break
        move = newton_step(function, x, damping=damping) - x
        length = 1.0
        while not function(x + length * move) <= value + 1e-4 * length * (gradient @ move):
            length /= 2
            if length < 1e-10:
                return path
        path.append(x + length * move)
    return path


class Newton(torch.optim.Optimizer):
    """x <- x - lr (|H| + damping)^-1 g over all parameters together, for the loop: H from central differences of the
    gradients that the closure gives, two for each number; exact on a quadratic function but for rounding.

    params: parameters, or groups of which lr and weight_decay count (a price weight_decay / 2 |x|^2). It remembers
    nothing. Raises ValueError for more than 1000 numbers, and for values out of range."""

    needs_closure = True

    def __init__(self, params: Any, lr: float = 1.0, weight_decay: float = 0.0, *, damping: float = 1e-3):
        if not lr >= 0 or not weight_decay >= 0 or not damping >= 0:
            raise ValueError(f"Invalid lr, weight_decay or damping: {lr}, {weight_decay}, {damping}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "damping": damping})
        self.parameters = [p for group in self.param_groups for p in group["params"]]
        size = sum(p.numel() for p in self.parameters)
        if size > MOST:
            raise ValueError(f"Invalid size: {size} numbers to train; Newton's method is for at most {MOST}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. -> the loss before it."""
        assert closure is not None, "the slope is needed at many places"
        look = torch.enable_grad()(closure)
        loss = number(look())
        here, gradient = self._flat(), self._slope()
        reach = torch.finfo(here.dtype).eps ** (1 / 3) * here.abs().clamp_min(1.0)
        rows = []
        for k in range(len(here)):
            slopes = []
            for side in (1, -1):
                there = here.clone()
                there[k] += side * reach[k]
                self._write(there)
                look()
                slopes.append(self._slope())
            rows.append((slopes[0] - slopes[1]) / (2 * reach[k]))
        hessian = torch.stack(rows)
        rates = torch.cat([torch.full((p.numel(),), float(group["lr"]), dtype=here.dtype, device=here.device)
                           for group in self.param_groups for p in group["params"]])
        move = _solve((hessian + hessian.T) / 2, gradient, self.param_groups[0]["damping"])
        self._write(here - rates * move)
        return loss

    def _flat(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters])

    def _slope(self) -> Tensor:
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad) + group["weight_decay"] * p
                 for group in self.param_groups for p in group["params"]]
        return torch.cat([part.reshape(-1) for part in parts])

    def _write(self, flat: Tensor) -> None:
        for p, part in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            p.copy_(part.view_as(p))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))
        self.parameters = [p for group in self.param_groups for p in group["params"]]


def _solve(hessian: Tensor, gradient: Tensor, damping: float) -> Tensor:
    values, vectors = torch.linalg.eigh(hessian)
    sizes = values.abs()
    along = vectors.T @ gradient
    kept = sizes > 1e-12 * sizes.max().clamp_min(1e-300) if damping == 0 else torch.ones_like(sizes, dtype=torch.bool)
    return vectors @ torch.where(kept, along / torch.where(kept, sizes + damping, 1.0), 0.0)
