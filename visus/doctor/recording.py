"""What each layer gives in one forward pass, as a few numbers a layer: no output is kept.

    with record(model) as layers:
        model(images)
    layers["stages.0.conv1"].std

Layers are seen by forward hooks; `F.relu`, `torch.tanh` and the like, which no hook sees, by a TorchFunctionMode: they
are named after the layer before them ("relu after bn1"). A module that is called again gets a name of its own for the
second and third call ("relu#2"); the fourth and all later calls are one entry ("cell#4"), so that a loop over time does
not grow the table. Cost: five passes over each output, about a quarter of a forward pass on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

CALLS = 4  # entries of one module: its first calls one by one, the rest together
TANH_END = 0.97  # |tanh| above it: the slope is below 1 - 0.97^2 = 0.06 of its largest
SIGMOID_END = 0.03  # a sigmoid nearer to 0 or 1 than this: the slope is below 4 * 0.03 * 0.97 = 0.12 of its largest

_FUNCTIONS: dict[Callable[..., Any], str] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6), "relu"),
    **dict.fromkeys((torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh), "tanh"),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid,
                     torch.special.expit), "sigmoid"),
}
_CLAMPS = {torch.clamp, Tensor.clamp, torch.clamp_min, Tensor.clamp_min}
_MODULES = {nn.ReLU: "relu", nn.ReLU6: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention, nn.RNNCellBase)  # units: last axis
_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)  # units: axis 1


@dataclass(frozen=True, slots=True)
class LayerOutputs:
    """Of the outputs of one layer in one pass.

    name: dotted, as in `named_modules` (with "#2" for a second call). kind: class of the module, or "relu", "tanh",
    "sigmoid". parameters: it has weights of its own. units: channels or features. samples: size of the batch.
    positions: values a unit gave. spread: standard deviation over the samples at one place, averaged over the places:
    what is left of the differences between the inputs; None for one sample. low, high: extremes, not finite when one
    value is not. dead: share of the units of a ReLU that gave nothing above 0. saturated: share of the values at an
    end of tanh's or the sigmoid's range. dead and saturated are None for other layers.
    """

    name: str
    kind: str
    parameters: bool
    units: int
    samples: int
    positions: int
    mean: float
    std: float
    spread: float | None
    low: float
    high: float
    dead: float | None = None
    saturated: float | None = None
    calls: int = 1

    @property
    def module(self) -> str:
        """The name without the number of the call."""
        return self.name.rsplit("#", 1)[0]

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


class Recording(dict[str, LayerOutputs]):
    """Name -> outputs, in the order of the forward pass. inside: the module that was running when the pass failed."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: str | None = None


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Measures what the layers of `model` give while the context is open. The outputs are not changed, and gradients
    pass as before."""
    watching = _Watching(model)
    try:
        with watching:
            yield watching.recording
    finally:
        watching.recording.inside = watching.open[-1][0] if watching.open else None
        for handle in watching.handles:
            handle.remove()


class _Watching(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.recording = Recording()
        self.open: list[tuple[str, nn.Module]] = []  # modules that are running, the innermost last
        self.before = ""  # the layer that ended last
        self.axis: int | None = None  # where its units are; None: not known yet
        self.unit_masks: dict[str, Tensor] = {}  # alive units of entries that are merged
        self.handles = []
        for name, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(self._enter(name)))
            self.handles.append(module.register_forward_hook(self._leave(name)))

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, _: Any) -> None:
            self.open.append((name, module))

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, _: Any, output: Any) -> None:
            while self.open and self.open.pop()[1] is not module:
                pass
            own = any(True for _ in module.parameters(recurse=False))
            if any(True for _ in module.children()) and not isinstance(module, nn.MultiheadAttention):
                return
            if isinstance(module, _LAST):
                self.axis = -1
            elif isinstance(module, _SECOND):
                self.axis = 1
            self.before = name
            self._note(name, type(module).__name__, output, parameters=own, activation=_activation(module))

        return leave

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        kind = _FUNCTIONS.get(func) if func not in _CLAMPS else _clamp(args, kwargs or {})
        if kind and isinstance(output, Tensor) and output.ndim >= 2:
            innermost = self.open[-1] if self.open else ("", None)
            if type(innermost[1]) not in _MODULES:  # its own hook notes it
                place = f"after {self.before}" if self.before else f"in {innermost[0] or 'the model'}"
                self._note(f"{kind} {place}", kind, output, parameters=False, activation=kind)
        return output

    @torch.no_grad()
    def _note(self, name: str, kind: str, output: Any, *, parameters: bool, activation: str | None) -> None:
        while isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel() or output.ndim < 1:
            return
        with torch._C.DisableTorchFunction():
            self._measure(name, kind, output.detach(), parameters, activation)

    def _measure(self, name: str, kind: str, output: Tensor, parameters: bool, activation: str | None) -> None:
        values = output if output.dtype in (torch.float32, torch.float64) else output.float()
        axis = self._unit_axis(values)
        units = values.shape[axis] if values.ndim > 1 else 1
        low, high = torch.aminmax(values)
        variance, mean = torch.var_mean(values, correction=0)
        spread = values.std(dim=0, correction=0).mean() if values.ndim > 1 and len(values) > 1 else None
        numbers = [mean, variance.sqrt(), low, high, spread if spread is not None else mean]
        alive = None
        if activation == "relu" and values.ndim > 1:
            alive = values.movedim(axis, -1).reshape(-1, units).amax(dim=0) > 0  # [positions, units] -> [units]
            numbers.append(units - alive.to(values.dtype).sum())
        elif activation == "tanh":
            numbers.append((values.abs() > TANH_END).to(values.dtype).mean())
        elif activation == "sigmoid":
            numbers.append(((values - 0.5).abs() > 0.5 - SIGMOID_END).to(values.dtype).mean())
        got = torch.stack(numbers).tolist()
        entry = LayerOutputs(
            name=name, kind=kind, parameters=parameters, units=units, samples=len(values),
            positions=values.numel() // units, mean=got[0], std=got[1], low=got[2], high=got[3],
            spread=got[4] if spread is not None else None, dead=got[5] / units if alive is not None else None,
            saturated=got[5] if activation in ("tanh", "sigmoid") else None)
        self._keep(entry, alive)

    def _keep(self, entry: LayerOutputs, alive: Tensor | None) -> None:
        number = 1
        while number < CALLS and _numbered(entry.name, number) in self.recording:
            number += 1
        name = _numbered(entry.name, number)
        if alive is not None and number == CALLS:
            seen = self.unit_masks.get(name)
            if seen is not None and seen.shape == alive.shape:
                alive = seen | alive
                entry = replace(entry, dead=float((~alive).sum()) / len(alive))
            self.unit_masks[name] = alive
        known = self.recording.get(name)
        self.recording[name] = replace(entry, name=name) if known is None else _merged(known, entry)

    def _unit_axis(self, values: Tensor) -> int:
        if values.ndim <= 2:
            return values.ndim - 1
        if self.axis is not None:
            return self.axis
        return 1 if values.ndim >= 4 else -1


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"


def _merged(old: LayerOutputs, new: LayerOutputs) -> LayerOutputs:
    """Two calls as one: averages weighted by the number of calls. `dead` of the new one already holds both."""
    share = old.calls / (old.calls + 1)

    def mixed(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else share * a + (1 - share) * b

    mean = share * old.mean + (1 - share) * new.mean
    square = share * (old.std ** 2 + old.mean ** 2) + (1 - share) * (new.std ** 2 + new.mean ** 2)
    return replace(old, mean=mean, std=math.sqrt(max(0.0, square - mean ** 2)) if math.isfinite(square) else math.nan,
                   spread=mixed(old.spread, new.spread), low=_extreme(min, old.low, new.low),
                   high=_extreme(max, old.high, new.high), dead=new.dead, positions=old.positions + new.positions,
                   saturated=mixed(old.saturated, new.saturated), calls=old.calls + 1)


def _extreme(pick: Callable[[float, float], float], a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else pick(a, b)


def _activation(module: nn.Module) -> str | None:
    if isinstance(module, nn.RNN):
        return "relu" if module.nonlinearity == "relu" else "tanh"
    if isinstance(module, nn.LSTM | nn.GRU):
        return "tanh"
    return _MODULES.get(type(module))


def _clamp(args: Any, kwargs: Any) -> str | None:
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    return "relu" if isinstance(low, int | float) and low == 0 and high is None else None
