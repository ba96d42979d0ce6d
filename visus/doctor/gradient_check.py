"""Is a gradient written by hand the derivative of its function? The courses' protocol, on anything differentiable.

The outputs are weighted with random numbers, so that one backward pass tests the whole Jacobian: the analytic entries
of it are compared with differences at a few entries of every parameter and input, in double precision, at several
points, the first where the module begins and the others after a few steps of descent (at initialisation some gradients
are too regular to show a mistake). A penalty is checked apart from the loss: its gradient can drown the data's.

A difference is centred, (f(x + h) - f(x - h)) / 2h with an error of O(h^2), taken at h and h / 2 and extrapolated
(Richardson) to O(h^4). Where the two do not agree as a smooth function makes them, a kink (ReLU at 0, another winner of
a max) lies in between: the entry is dropped and another one drawn, and the number of those is told.

Source: Stanford CS231n notes, "Neural Networks Part 3: Gradient checks" (relative error, double precision, kinks, few
entries, burn-in, regulariser and dropout off); Press et al., Numerical Recipes, section 5.7.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.validate import natural, positive
from visus.doctor.thresholds import limit

Verdict = Literal["right", "doubtful", "wrong", "not compared"]
SEED = 0x9E3779B9
SMALL = 1e-3  # of the largest entry: what is smaller is compared on this scale, differences resolve it no better
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True, kw_only=True)
class GradientRow:
    """One tensor. error: the largest |a - n| / max(|a|, |n|) over the compared entries and points, at `index`, where
    the backward pass says `analytic` and the difference `numeric`. kinks: entries dropped at a kink."""

    name: str
    shape: tuple[int, ...]
    compared: int
    kinks: int
    error: float
    index: tuple[int, ...]
    analytic: float
    numeric: float
    point: int

    @property
    def verdict(self) -> Verdict:
        """wrong, doubtful (single precision hidden in it, a kink unseen), right; bounds in thresholds.py."""
        if not self.compared:
            return "not compared"
        if not self.error <= limit("check-grad.wrong"):
            return "wrong"
        return "right" if self.error <= limit("check-grad.doubtful") else "doubtful"


@dataclass(frozen=True, kw_only=True)
class GradientReport:
    """rows: the loss's gradient, a row a tensor; penalty_rows: the penalty's. notes: what was switched off or seen."""

    rows: tuple[GradientRow, ...]
    penalty_rows: tuple[GradientRow, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Every tensor was compared somewhere, and agrees."""
        return all(row.verdict == "right" for row in (*self.rows, *self.penalty_rows))

    def __str__(self) -> str:
        head = f"{'tensor':28s} {'shape':>14s} {'compared':>8s} {'kinks':>5s} {'error':>8s}  verdict"
        lines = [head]
        for row in (*self.rows, *self.penalty_rows):
            shape = " x ".join(map(str, row.shape)) or "number"
            lines.append(f"{row.name[:28]:28s} {shape:>14s} {row.compared:8d} {row.kinks:5d} {row.error:8.1e}  "
                         f"{row.verdict}")
            if row.verdict in ("wrong", "doubtful"):
                lines.append(f"    at {list(row.index)}: the backward pass says {row.analytic:.8g}, differences say "
                             f"{row.numeric:.8g}{_guess(row)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def check_gradients(subject: nn.Module | Callable[..., Any], inputs: Sequence[Tensor], *, entries: int = 10,
                    points: int = 3, burn_in: int = 5, h: float = 1e-4, seed: int = 0,
                    penalty: Callable[[nn.Module], Tensor] | None = None) -> GradientReport:
    """Compare the gradients of `subject(*inputs)` with differences, for every parameter and every input of floats.

    subject: a module, a function, or `MyFunction.apply`; it is copied, the person's own stays as it is. inputs: as it
    takes them; floats become double. entries: compared of each tensor at each point, the largest analytic one among
    them. points: how many, each after `burn_in` more steps of gradient descent. h: first step of the differences.
    penalty(module): a term that the loss adds, checked apart.
    Raises UserError for a function that gives another answer when it is asked again, or none that is a float.
    """
    positive(entries=entries, points=points)
    natural(burn_in=burn_in, seed=seed)
    if isinstance(subject, type):
        raise UserError(f"is a class, not a layer: {subject.__name__}", where="subject",
                        remedy=f"Give {subject.__name__}.apply" if issubclass(subject, torch.autograd.Function) else
                        f"Build one first: {subject.__name__}(...)")
    module = copy.deepcopy(subject).double() if isinstance(subject, nn.Module) else None
    function = module if module is not None else subject
    given = [x.detach().double().clone() if x.is_floating_point() else x.detach().clone() for x in inputs]
    notes = _switch_off(module) if module is not None else []
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), _one_thread():
        judged = _Judged(function, given, generator)
        tensors = _tensors(module, given)
        if not tensors:
            raise UserError("has no parameter and no input of floats to differentiate by", where="subject")
        best: dict[str, GradientRow] = {}
        for point in range(points):
            if point:
                judged.descend(tensors, burn_in)
            for row in _compare(judged, tensors, entries, h, generator, point):
                best[row.name] = _worse(best.get(row.name), row)
        apart: dict[str, GradientRow] = {}
        if penalty is not None and module is not None:
            own = {name: tensor for name, tensor in tensors.items() if not name.startswith("input")}
            for row in _compare(lambda: penalty(module), own, entries, h, generator, 0):
                apart[row.name] = GradientRow(**{**_fields(row), "name": f"penalty: {row.name}"})
    if any(row.kinks for row in best.values()):
        notes.append("entries at a kink (ReLU at 0, a tie of a max) were drawn again: there is no derivative there")
    return GradientReport(rows=tuple(best.values()), penalty_rows=tuple(apart.values()), notes=tuple(notes))


class _Judged:
    """f(tensors) = sum of the outputs times fixed random weights; the same numbers each time it is asked."""

    def __init__(self, function: Callable[..., Any], inputs: list[Tensor], generator: torch.Generator):
        self.function, self.inputs = function, inputs
        buffers = function.named_buffers() if isinstance(function, nn.Module) else ()
        self.state = {name: buffer.clone() for name, buffer in buffers}
        outputs = self._outputs()
        if not outputs:
            raise UserError("gives no tensor of floats", where="subject")
        self.weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in outputs]
        first, second = float(self().detach()), float(self().detach())
        if first != second:
            raise UserError(f"gives another answer when it is asked again: {first!r}, then {second!r}", where="subject",
                            remedy="Draw its random numbers outside, or from torch's generator")

    def _outputs(self) -> list[Tensor]:
        torch.manual_seed(SEED)  # what it draws, it draws again
        if isinstance(self.function, nn.Module):
            for name, buffer in self.function.named_buffers():  # running statistics are not part of the function
                buffer.detach().copy_(self.state[name])
        return [out for out in _flat(self.function(*self.inputs)) if out.is_floating_point()]

    def __call__(self) -> Tensor:
        outputs = self._outputs()
        total = (outputs[0].double() * self.weights[0]).sum()
        for out, weight in zip(outputs[1:], self.weights[1:], strict=True):
            total = total + (out.double() * weight).sum()
        return total

    def descend(self, tensors: dict[str, Tensor], steps: int) -> None:
        """A few steps downhill, each moving every tensor by a hundredth of its norm."""
        for _ in range(steps):
            gradients = torch.autograd.grad(self(), list(tensors.values()), allow_unused=True)
            with torch.no_grad():
                for tensor, gradient in zip(tensors.values(), gradients, strict=True):
                    if gradient is not None and float(gradient.norm()) > 0:
                        tensor -= 0.01 * (tensor.norm() + 0.1) / gradient.norm() * gradient


def _compare(f: Callable[[], Tensor], tensors: dict[str, Tensor], entries: int, h: float,
             generator: torch.Generator, point: int) -> Iterator[GradientRow]:
    value = f()
    if not value.requires_grad:
        raise UserError("the output does not depend on any parameter or input through differentiable steps",
                        where="subject", remedy="Look for .detach(), .item(), torch.no_grad() or rounding on the way")
    gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
    noise = torch.finfo(torch.float64).eps * max(1.0, abs(float(value.detach())))
    with torch.no_grad():
        for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
            analytic = torch.zeros_like(tensor) if gradient is None else gradient.detach()
            row = GradientRow(name=name, shape=tuple(tensor.shape), compared=0, kinks=0, error=0.0, index=(),
                              analytic=0.0, numeric=0.0, point=point)
            order = torch.randperm(tensor.numel(), generator=generator)
            largest = int(analytic.abs().argmax()) if tensor.numel() else 0
            floor = SMALL * float(analytic.abs().max()) if tensor.numel() else 0.0
            compared = kinks = 0
            for flat in [largest, *(int(i) for i in order if int(i) != largest)][:10 * entries]:
                if compared == entries:
                    break
                numeric = _difference(f, tensor, flat, h, noise)
                if numeric is None:
                    kinks += 1
                    continue
                compared += 1
                claimed = float(analytic.reshape(-1)[flat])
                error = _relative(claimed, numeric, noise / h, floor)
                if compared == 1 or not error <= row.error:
                    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), tensor.shape))
                    row = GradientRow(**{**_fields(row), "error": error, "index": index, "analytic": claimed,
                                         "numeric": numeric})
            yield GradientRow(**{**_fields(row), "compared": compared, "kinks": kinks})


def _difference(f: Callable[[], Tensor], tensor: Tensor, flat: int, h: float, noise: float) -> float | None:
    """The derivative by one entry; None at a kink."""
    entry = tensor.view(-1)[flat] if tensor.is_contiguous() else tensor.reshape(-1)[flat]
    if not tensor.is_contiguous():
        raise UserError("is not contiguous", where="inputs", remedy="Give x.contiguous()")
    old = float(entry)
    step = h * max(1.0, abs(old))
    values = []
    for move in (step, -step, step / 2, -step / 2, 0.0):
        entry.fill_(old + move)
        values.append(float(f()))
    entry.fill_(old)
    up, down, half_up, half_down, middle = values
    wide, narrow = (up - down) / (2 * step), (half_up - half_down) / step
    # of a smooth function the wide one errs by h^2 f'''/6 and the one-sided ones by h f''/2, equal and opposite:
    # a kink makes the two sides differ in the first order, at h as much as at h / 2
    bend, half_bend = (up + down - 2 * middle) / step, (half_up + half_down - 2 * middle) / (step / 2)
    scale = max(abs(wide), abs(narrow), 1.0)
    blurred = 64 * noise / step
    kink = abs(wide - narrow) > 1e-3 * h / 1e-4 * scale + blurred or (
        abs(half_bend) > 0.75 * abs(bend) and abs(half_bend) > 1e-4 * h / 1e-4 * scale + blurred)
    return None if kink else (4 * narrow - wide) / 3


def _relative(a: float, b: float, noise: float, floor: float) -> float:
    """|a - b| / max(|a|, |b|, floor), where rounding alone makes no more than 1e-8 of it."""
    if a != a or b != b:
        return float("nan")
    return abs(a - b) / max(abs(a), abs(b), floor, 1e8 * noise, 1e-12)


def _worse(a: GradientRow | None, b: GradientRow) -> GradientRow:
    if a is None:
        return b
    worst = a if not a.error <= b.error else b
    return GradientRow(**{**_fields(worst), "compared": a.compared + b.compared, "kinks": a.kinks + b.kinks})


def _fields(row: GradientRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in GradientRow.__dataclass_fields__}


def _tensors(module: nn.Module | None, inputs: list[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for number, x in enumerate(inputs):
        if x.is_floating_point():
            found[f"input {number}" if len(inputs) > 1 else "input"] = x.requires_grad_(True)
    if module is not None:
        for name, parameter in module.named_parameters():
            found[name] = parameter.requires_grad_(True)
    return found


def _flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [x for part in outputs for x in _flat(part)] if isinstance(outputs, list | tuple) else []


def _switch_off(module: nn.Module) -> list[str]:
    """Dropout hides half of the gradients behind a mask: it is off for the check."""
    notes, off = [], 0
    for part in module.modules():
        if isinstance(part, DROPOUT) and part.p > 0:
            part.p, off = 0.0, off + 1
    if off:
        notes.append(f"{off} dropout layer{'s' if off > 1 else ''} switched off for the check")
    return notes


def _guess(row: GradientRow) -> str:
    """What the usual mistakes look like in one number."""
    a, n = row.analytic, row.numeric
    if a == 0 != n:
        return ": the backward pass gives nothing here (detached, or forgotten)"
    if n == 0 != a:
        return ": the function does not depend on it"
    ratio = a / n if n else 0.0
    for factor, words in ((-1.0, "the sign is turned"), (2.0, "twice too much (a square's or a symmetric term's 2?)"),
                          (0.5, "half of it (a square's 2 is missing?)")):
        if abs(ratio - factor) < 1e-3:
            return ": " + words
    whole = round(ratio) if abs(ratio) >= 1 else round(1 / ratio) if ratio else 0
    if abs(whole) > 2 and min(abs(ratio / whole - 1), abs(ratio * whole - 1)) < 1e-3:
        return (f": {whole} times too {'much' if abs(ratio) > 1 else 'little'} "
                "(a mean where a sum stands, or the other way round?)")
    return ""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order only: two threads may add in another order than before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
