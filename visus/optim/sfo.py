"""The sum of functions optimizer: a quadratic model of each mini-batch's loss, all in one small subspace, minimised
together.

Paper: Sohl-Dickstein, Poole, Ganguli, Fast Large-scale Optimization by Unifying Stochastic Gradient and Quasi-Newton
Methods, ICML 2014, arXiv:1311.2115. It has to know which mini-batch is seen, and that it stays the
same: fixed parts of a data set, without augmentation or dropout. No rate is to be set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Function = Callable[[Tensor], tuple[float, Tensor]]  # x [D] -> value, gradient [D]
CURVED = 1e-8  # a pair (s, y) counts where s.y is above this share of |s| |y|


@dataclass
class _Part:
    """What is known of one function, in coordinates of the subspace [K]: where it was last seen, its value, slope and
    model Hessian [K, K], the curvature that this has where nothing is known, and pairs of steps and changes of slope,
    oldest first."""

    place: Tensor
    value: float
    slope: Tensor
    hessian: Tensor
    curvature: float
    steps: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)

    def model(self, at: Tensor) -> float:
        move = at - self.place
        return self.value + float(self.slope @ move + 0.5 * move @ self.hessian @ move)

    def model_slope(self, at: Tensor) -> Tensor:
        return self.slope + self.hessian @ (at - self.place)


class SumOfFunctions:
    """Minimises sum_i f_i(x) / N over x [D], one evaluation of one f_i in each step.

    functions: N of them, each x -> (value, gradient), always the same for the same x. start: x, float64 inside.
    history: pairs remembered of each function. The subspace has at most 3 max(N, history) + 3 directions. Memory:
    O(D N) and O(N^3) numbers; time per step O(D N + N^3).
    """

    def __init__(self, functions: Sequence[Function], start: Tensor, *, history: int = 10):
        if not functions or history < 1:
            raise ValueError(f"Invalid functions or history: {len(functions)}, {history}; at least 1 of each")
        self.functions, self.history = list(functions), history
        self.origin = start.detach().double().clone()
        self.basis = self.origin.new_zeros(len(self.origin), 0)  # [D, K], orthonormal: x = origin + basis @ here
        self.here = self.origin.new_zeros(0)
        self.parts: dict[int, _Part] = {}
        self.active = min(2, len(self.functions))
        self.evaluations = 0
        self._since_growth = 0
        self._length = 1.0  # of the next step as a share of the whole; below 1 after a bad one
        self._before: tuple[Tensor, float] | None = None  # the place before the last step, and what the sum should lose

    @property
    def x(self) -> Tensor:
        """The weights now, [D] float64."""
        return self.origin + self.basis @ self.here

    def minimise(self, passes: float) -> Tensor:
        """As many steps as `passes` passes over all functions take. -> x."""
        for _ in range(math.ceil(passes * len(self.functions))):
            self.step()
        return self.x

    def step(self) -> float:
        """Look at one function where x is, and move to the minimum of the sum of all models. -> its value at x."""
        index = self._choose()
        value, gradient = self.functions[index](self.x)
        self.evaluations += 1
        slope = self._in_subspace(gradient.detach().double())
        bad = self._is_bad(index, value)
        self._learn(index, float(value), slope, bad)
        if bad:
            assert self._before is not None
            self.here, self._length = self._padded(self._before[0]), self._length / 2
        else:
            self._length = min(1.0, 2 * self._length)
        self._move()
        self._grow()
        if self.basis.shape[1] > 3 * max(len(self.functions), self.history) + 3:
            self._collapse()
        return float(value)

    def _choose(self) -> int:
        """An active function that was never seen, or the one whose model is furthest from where it was made."""
        unseen = [k for k in range(self.active) if k not in self.parts]
        if unseen:
            return unseen[0]
        total = torch.stack([part.hessian for part in self.parts.values()]).sum(0)
        away = {k: self.here - part.place for k, part in self.parts.items()}
        return max(away, key=lambda k: float(away[k] @ total @ away[k]))

    def _in_subspace(self, gradient: Tensor) -> Tensor:
        """The gradient's coordinates, after the subspace has taken in what of it lies outside."""
        inside = self.basis.T @ gradient
        outside = gradient - self.basis @ inside
        again = self.basis.T @ outside  # twice is enough for orthogonality in floating point
        outside = outside - self.basis @ again
        size = float(outside.norm())
        if size <= 1e-10 * float(gradient.norm()) or self.basis.shape[1] >= len(self.origin):
            return inside + again
        self.basis = torch.cat([self.basis, (outside / size)[:, None]], 1)
        self.here = self._padded(self.here)
        for part in self.parts.values():
            self._pad(part)
        return torch.cat([inside + again, inside.new_tensor([size])])

    def _padded(self, vector: Tensor) -> Tensor:
        return torch.cat([vector, vector.new_zeros(self.basis.shape[1] - len(vector))])

    def _pad(self, part: _Part) -> None:
        """A new direction, of which nothing is known yet."""
        part.place, part.slope = self._padded(part.place), self._padded(part.slope)
        part.steps, part.changes = [self._padded(s) for s in part.steps], [self._padded(y) for y in part.changes]
        size = len(part.hessian)
        hessian = part.curvature * torch.eye(len(part.place), dtype=part.place.dtype)
        hessian[:size, :size] = part.hessian
        part.hessian = hessian

    def _is_bad(self, index: int, value: float) -> bool:
        """The function has grown, and lies further above its model than the step was to gain."""
        part = self.parts.get(index)
        if not math.isfinite(value):
            return self._before is not None
        return part is not None and self._before is not None and value > part.value and \
            value - part.model(self._padded(self.here)) > self._before[1]

    def _learn(self, index: int, value: float, slope: Tensor, bad: bool) -> None:
        part = self.parts.get(index)
        if part is None:
            if not (bad and not math.isfinite(value)):
                curvature = self._usual_curvature() or float(slope.norm().clamp_min(1e-12))
                self.parts[index] = _Part(self.here.clone(), value, slope,
                                          curvature * torch.eye(len(slope), dtype=slope.dtype), curvature)
            return
        move, change = self.here - part.place, slope - part.slope
        if torch.isfinite(change).all() and float(move @ change) > CURVED * float(move.norm() * change.norm()):
            part.steps, part.changes = [*part.steps, move][-self.history:], [*part.changes, change][-self.history:]
            part.curvature = _least_curvature(part)
            part.hessian = _model_hessian(part)
        if not bad:
            part.place, part.value, part.slope = self.here.clone(), value, slope

    def _usual_curvature(self) -> float | None:
        """The middle of the curvatures of all functions that have a history."""
        known = sorted(part.curvature for part in self.parts.values() if part.steps)
        return known[len(known) // 2] if known else None

    def _move(self) -> None:
        parts = list(self.parts.values())
        slope = torch.stack([part.model_slope(self.here) for part in parts]).sum(0)
        total = torch.stack([part.hessian for part in parts]).sum(0)
        there = self.here - self._length * torch.linalg.solve(total, slope)
        gain = sum(part.model(self.here) - part.model(there) for part in parts)
        self._before, self.here = (self.here, gain), there

    def _grow(self) -> None:
        """More functions once their mean slope is lost in its own error, or after a pass over the active."""
        self._since_growth += 1
        if self.active == len(self.functions) or len(self.parts) < self.active:
            return
        slopes = torch.stack([part.slope for part in self.parts.values()])
        mean = slopes.mean(0)
        error = float((slopes - mean).square().sum()) / max(1, len(slopes) - 1) / len(slopes)
        if float(mean.square().sum()) < error or self._since_growth >= self.active:
            self.active = min(len(self.functions), math.ceil(1.1 * self.active) + 1)
            self._since_growth = 0

    def _collapse(self) -> None:
        """Keep the span of all last places and slopes, and of where x is."""
        rows = [self.here, *(v for part in self.parts.values() for v in (part.place, part.slope))]
        if self._before is not None:
            rows.append(self._padded(self._before[0]))
        scaled = torch.stack([row / row.norm().clamp_min(1e-300) for row in rows], 1)  # [K, about 2 N]
        left, sizes, _ = torch.linalg.svd(scaled, full_matrices=False)
        turn = left[:, sizes > 1e-10 * sizes[0]]  # [K, K']
        if self._before is not None:
            self._before = (turn.T @ rows[-1], self._before[1])
        self.basis, self.here = self.basis @ turn, turn.T @ self.here
        for part in self.parts.values():
            part.place, part.slope = turn.T @ part.place, turn.T @ part.slope
            part.hessian = turn.T @ part.hessian @ turn
            part.steps, part.changes = [turn.T @ s for s in part.steps], [turn.T @ y for y in part.changes]


def _least_curvature(part: _Part) -> float:
    """The smallest |y| / |s| over the span of the history, by least squares: what the model has where nothing is
    known."""
    steps, changes = torch.stack(part.steps, 1), torch.stack(part.changes, 1)  # [K, T]
    scale = steps.norm(dim=0)
    left, sizes, right = torch.linalg.svd(steps / scale, full_matrices=False)
    kept = sizes > 1e-6 * sizes[0]
    seen = (changes / scale) @ right.T[:, kept] / sizes[kept]  # H times an orthonormal base of the steps
    return max(float(torch.linalg.svdvals(seen)[-1]), 1e-12)


def _model_hessian(part: _Part) -> Tensor:
    """[K, K]: BFGS updates through the history, from the least curvature times the identity."""
    hessian = part.curvature * torch.eye(len(part.steps[0]), dtype=part.place.dtype)
    for step, change in zip(part.steps, part.changes, strict=True):
        along = hessian @ step
        bend, turn = float(step @ along), float(change @ step)
        if turn > CURVED * float(step.norm() * change.norm()) and bend > 0:
            hessian = hessian - torch.outer(along, along) / bend + torch.outer(change, change) / turn
    return hessian


def batch_functions(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor],
                    batches: Sequence[tuple[Tensor, Tensor]]) -> list[Function]:
    """One function of the flat parameters per batch (inputs, targets): loss(model(inputs), targets) and its gradient.
    The model is left in eval mode, with the parameters of the last evaluation; see `write_parameters`."""
    model.eval()
    trained = [p for p in model.parameters() if p.requires_grad]

    def function(inputs: Tensor, targets: Tensor) -> Function:
        def at(x: Tensor) -> tuple[float, Tensor]:
            with torch.no_grad():
                vector_to_parameters(x.to(trained[0]), trained)
            with torch.enable_grad():
                value = loss(model(inputs), targets)
                slopes = torch.autograd.grad(value, trained)
            return float(value.detach()), parameters_to_vector(slopes)
        return at

    return [function(inputs, targets) for inputs, targets in batches]


def write_parameters(model: nn.Module, x: Tensor) -> None:
    """The flat parameters x [D] into those of the model that train."""
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        vector_to_parameters(x.to(trained[0]), trained)
