"""What optimizers of our own share: checks of their numbers, the walk over groups, tensors taken together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

TOGETHER = 1 << 15  # numbers: small tensors share a call on the CPU, and stay in its cache from pass to pass


class GroupedOptimizer(torch.optim.Optimizer, ABC):
    """`step` hands the tensors of each group that have a gradient to `update`, in parts that one call takes together:
    on the CPU small tensors up to `TOGETHER` numbers, elsewhere (or with foreach=True in the group) the whole group.

    A subclass writes `update`, and finds what it remembers in `self.remembered`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            tensors = [p for p in group["params"] if p.grad is not None]
            for part in parts(tensors, group.get("foreach")):
                self.update(part, [p.grad for p in part if p.grad is not None], group)
        return loss

    @abstractmethod
    def update(self, tensors: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Move the tensors, in place; gradients stay as they are."""

    def remembered(self, tensors: list[Tensor], name: str) -> list[Tensor]:
        """What is kept under `name` for each tensor: of its shape and layout, 0 at first."""
        for p in tensors:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in tensors]


def parts(tensors: list[Tensor], foreach: bool | None) -> Iterator[list[Tensor]]:
    """All tensors together (foreach, or None and none of them on the CPU), or in runs of at most `TOGETHER` numbers."""
    if not tensors:
        return
    if foreach or (foreach is None and all(p.device.type != "cpu" for p in tensors)):
        yield tensors
        return
    run: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if run and size + tensor.numel() > TOGETHER:
            yield run
            run, size = [], 0
        run.append(tensor)
        size += tensor.numel()
    yield run


def check_numbers(at_least_0: Mapping[str, float], below_1: Mapping[str, float]) -> None:
    """Raises ValueError naming the first value that is below 0, or is not in [0, 1)."""
    for name, value in at_least_0.items():
        if not value >= 0:
            raise ValueError(f"Invalid {name}: {value}, must be at least 0")
    for name, value in below_1.items():
        if not 0 <= value < 1:
            raise ValueError(f"Invalid {name}: {value}, must be in [0, 1)")


def norms(tensors: list[Tensor]) -> Tensor:
    """[T]: the L2 norm of each, in float32 (float64 for float64). No wait for the device."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))


def number(loss: Any) -> float:
    """What a closure gave, a number or a scalar with or without a graph."""
    return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
