"""Every registered optimizer as a contender: how it is built, and many descents of it at once.

A gallery wants thousands of short descents. Most rules treat each number by itself, so that all descents go into one
tensor; some look at a tensor as a whole (Muon, LARS), some at all of them (L-BFGS, sharpness-aware steps). Which it is
is found by trial, not declared: `coupling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from visus.core.errors import RecipeError, did_you_mean
from visus.optim.build import OPTIMIZERS, build_optimizer, wrap_optimizer

Coupling = Literal["element", "tensor", "all"]
# points [K, D], which of the problem's descents they are [K], the step from 0 -> values [K], gradients [K, D]
Evaluate = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
_TRIAL_STEPS = 20


@dataclass(frozen=True)
class Contender:
    """label: how tables name it. options: arguments of build_optimizer beside the rate; around: of wrap_optimizer."""

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    around: dict[str, Any] = field(default_factory=dict, hash=False)

    def build(self, groups: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        return wrap_optimizer(build_optimizer(self.name, groups, lr=lr, **self.options), **self.around)


def contenders(names: Sequence[str] = ()) -> list[Contender]:
    """The optimizers of these names, or all that are registered; sgd in its forms: plain, with momentum 0.9,
    Nesterov's, and with momentum inside of sharpness-aware steps (sam) and of lookahead. Raises RecipeError for a name
    that is neither an optimizer's nor a label."""
    every = [contender for name in OPTIMIZERS for contender in _forms(name)]
    labels = {contender.label: contender for contender in every}
    found: list[Contender] = []
    for name in names or list(OPTIMIZERS):
        if name not in labels and name not in OPTIMIZERS:
            raise RecipeError("there is no such optimizer", where=f"optimizer={name!r}",
                              remedy=did_you_mean(name, {*labels, *OPTIMIZERS}))
        found += [c for c in every if c.name == name] if name in OPTIMIZERS else [labels[name]]
    return list(dict.fromkeys(found))


def _forms(name: str) -> list[Contender]:
    if name == "sgd":
        return [Contender("sgd", name, {"momentum": 0.0}), Contender("momentum", name, {"momentum": 0.9}),
                Contender("nesterov", name, {"momentum": 0.9, "nesterov": True}),
                Contender("sam", name, {"momentum": 0.9}, {"sam": 0.05}),
                Contender("lookahead", name, {"momentum": 0.9}, {"lookahead": 5})]
    options: dict[str, Any] = {"momentum": 0.0} if name == "rmsprop" else {}
    return [Contender(name, name, options | ({"nesterov": True} if "nesterov" in OPTIMIZERS[name].takes else {}))]


def descend(contender: Contender, starts: Tensor, rates: Sequence[float], evaluate: Evaluate, steps: int,
            advance: Callable[[int], object] = lambda count: None) -> Tensor:
    """K descents side by side, each as if it were alone: the points before the first and after each step; of an
    optimizer that keeps other weights for use (a mean, slow weights) these.

    starts: float64 [K, D]. rates: K learning rates. evaluate: see `Evaluate`; asked again within a step, as line
    searches do, it must give the same function. advance: told the number of steps x descents done.
    -> float64 [steps + 1, K, D]; a descent that left the finite numbers is NaN from there on.
    """
    path = torch.full((steps + 1, *starts.shape), math.nan, dtype=starts.dtype)
    path[0] = starts
    every = torch.arange(len(starts))
    kind = coupling(contender)
    parts = [every] if kind != "all" else list(every.split(1))
    for part in parts:
        _descend(contender, part, [rates[k] for k in part.tolist()], evaluate, path, kind, advance)
    return path


def _descend(contender: Contender, part: Tensor, rates: list[float], evaluate: Evaluate, path: Tensor, kind: Coupling,
             advance: Callable[[int], object]) -> None:
    """Fills path[1:, part]. One optimizer; a parameter for each rate (kind element), else one for each descent."""
    starts = path[0, part]  # [P, D]
    if kind == "element":
        of_rate = [[k for k, rate in enumerate(rates) if rate == one] for one in dict.fromkeys(rates)]
        parameters = [torch.nn.Parameter(starts[rows].reshape(-1)) for rows in of_rate]
        order = torch.tensor([k for rows in of_rate for k in rows])
    else:
        of_rate = [[k] for k in range(len(part))]
        parameters = [torch.nn.Parameter(start[:, None].clone()) for start in starts]  # [D, 1]: a matrix, for Muon
        order = torch.arange(len(part))
    groups = [{"params": [p], "lr": rates[rows[0]]} for p, rows in zip(parameters, of_rate, strict=True)]
    torch.manual_seed(0)
    optimizer = contender.build(groups, lr=rates[0])
    back, which = torch.argsort(order), part[order]

    keeps = getattr(optimizer, "keeps", None)

    def points(name: str | None = None) -> Tensor:
        """[P, D], in the order of `which`."""
        held = [p.detach() if name is None else optimizer.state.get(p, {}).get(name, p.detach()) for p in parameters]
        return torch.cat([tensor.reshape(-1, starts.shape[1]) for tensor in held])

    def closure() -> float:
        values, gradients = evaluate(points(), which, step)
        for parameter, gradient in zip(parameters, gradients.split([len(rows) for rows in of_rate]), strict=True):
            parameter.grad = gradient.reshape(parameter.shape).clone()
        return float(values.sum())

    for step in range(len(path) - 1):
        closure()
        try:
            optimizer.step(closure if getattr(optimizer, "needs_closure", False) else None)
        except (RuntimeError, ValueError, OverflowError, ZeroDivisionError):
            if kind != "all":
                raise
            return  # a solver that met numbers which are not finite
        now = points(keeps)
        path[step + 1, part] = now[back]
        advance(len(part))
        if kind == "all" and not bool(torch.isfinite(now).all()):
            return


@cache
def coupling(contender: Contender) -> Coupling:
    """Whether a number's path depends on itself alone, on its tensor, or on all: found by moving one and watching the
    others through a few steps on a separable function, bit by bit. What looks at the loss itself depends on all."""
    if getattr(contender.build([torch.nn.Parameter(torch.ones(2, 1))], 0.01), "needs_closure", False):
        return "all"
    return "element" if _alone(contender, [3]) else "tensor" if _alone(contender, [2, 1]) else "all"


def _alone(contender: Contender, sizes: list[int]) -> bool:
    """Do all numbers but the last tensor's last keep their paths, to the bit, when that one starts elsewhere?"""
    return torch.equal(_trial(contender, sizes, 0.5), _trial(contender, sizes, 4.0))


def _trial(contender: Contender, sizes: list[int], last: float) -> Tensor:
    parameters = [torch.nn.Parameter(torch.linspace(1.0, 2.0, size, dtype=torch.float64)[:, None]) for size in sizes]
    with torch.no_grad():
        parameters[-1][-1] = last
    torch.manual_seed(0)
    optimizer = contender.build(parameters, lr=0.01)

    def closure() -> float:
        for p in parameters:
            p.grad = 2 * p.detach() + torch.cos(3 * p.detach())
        return sum(float((p.detach() ** 2 + torch.sin(3 * p.detach()) / 3).sum()) for p in parameters)

    seen = []
    for _ in range(_TRIAL_STEPS):
        closure()
        optimizer.step(closure if getattr(optimizer, "needs_closure", False) else None)
        seen.append(torch.cat([p.detach().reshape(-1) for p in parameters])[:-1])
    return torch.stack(seen)


@cache
def rate_grid(low: float = 1e-4, high: float = 10.0, per_decade: int = 2) -> tuple[float, ...]:
    """Rates even in the logarithm, both ends among them, rounded to three digits."""
    count = round(math.log10(high / low) * per_decade)
    return tuple(float(f"{low * 10 ** (k / per_decade):.3g}") for k in range(count + 1))
