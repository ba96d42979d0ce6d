"""What the layers of a net give while it trains: mean, spread, dead units, saturation, the head's gradient by halves.

Hooks sit on the layers with weights, and only during the forward pass of a full look. Which activation stands between
two of them is read from the graph of autograd, so that `nn.ReLU`, `F.relu` and `torch.relu` are the same thing, and a
gate (a sigmoid that multiplies) or a last sigmoid is not taken for a hidden unit.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from visus.doctor.recording import SIGMOID_END, TANH_END

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
SAMPLES = 16  # of a batch: enough for a mean and a spread
SEEN = 64  # of a batch: for units that never answer
ENOUGH = 512  # a unit is dead when it gave nothing in so many samples (reliability.md, D5)
POSITIONS = 8  # positions of a map count as so many samples at the most: neighbours tell the same
FAR = 40  # nodes of the graph that are passed on the way to the layer before

# nodes between an activation and the layer that reads it; the second set keeps the values themselves
POOLS = ("MaxPool", "AvgPool", "AdaptiveAvgPool", "MkldnnMaxPool", "Mean", "NativeDropout", "Mul", "Amax", "Div")
SAME = ("View", "UnsafeView", "ReshapeAlias", "ToCopy", "Squeeze", "Alias", "Expand", "Clone")


class OutputStatistics:
    """Statistics of the outputs of the layers of one model, gathered in the forward passes between `install` and
    `remove`."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._handles: list[Any] = []
        self._made: dict[Any, tuple[str, nn.Module]] = {}  # graph node -> the layer that made it; cleared by `remove`
        self._found: dict[str, dict[str, Any]] = {}
        self._silent: dict[str, tuple[Tensor, int]] = {}  # by layer: samples since a unit answered, samples in all
        self._head: tuple[Tensor, Any] | None = None
        self._halves: tuple[int, float, int, float] | None = None
        self._peak: tuple[str, float] | None = None
        self._seconds = 0.0

    def install(self) -> None:
        self.remove()
        self._found, self._head, self._halves, self._peak = {}, None, None, None
        for name, module in self.model.named_modules():
            if isinstance(module, WEIGHTED):
                self._handles.append(module.register_forward_hook(
                    lambda m, args, output, name=name: self._see(name, m, args, output)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._made = {}

    def settle(self, output: Tensor | None) -> float:
        """The end of a forward pass that gave `output`. Returns the time that the hooks took in it."""
        if self._head is not None and (output is None or output.grad_fn is not self._head[1]):
            self._head = None  # something comes after the last linear layer
        self.remove()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def measured(self) -> dict[str, dict[str, Any]]:
        """By layer, in the order of the forward pass: mean, std, dead, saturated, units."""
        return self._found

    def facts(self) -> dict[str, object]:
        """fp16_peak: the layer with the largest output in half precision, and how large that is."""
        return {} if self._peak is None else {"fp16_peak": self._peak}

    def head_gradient(self, gradient: Tensor) -> None:
        """gradient of the loss with respect to the model's output [B, K]: where a linear layer [B, F] gave it, its
        weights' gradient over each half of the batch is a product of two small matrices."""
        if self._head is None or gradient.ndim != 2 or len(gradient) < 4 or len(gradient) != len(self._head[0]):
            return
        head, self._head = self._head[0], None
        half = len(gradient) // 2
        with torch.no_grad():
            # gradients of a mean over the batch: each half is made a mean over itself by len / half
            parts = [len(gradient) / half * (gradient[a:a + half].float().T @ head[a:a + half].float())
                     for a in (0, half)]
            small = sum(float((part * part).sum()) for part in parts) / 2
            large = float((((parts[0] + parts[1]) / 2) ** 2).sum())
        self._halves = (half, small, 2 * half, large)

    def halves(self) -> tuple[int, float, int, float] | None:
        """Samples and squared norm of the head's gradient over half a batch and over the whole of it."""
        return self._halves

    def _see(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        start = time.perf_counter()
        given = output[0] if isinstance(output, tuple) else output
        if isinstance(given, Tensor) and args and isinstance(args[0], Tensor):
            with torch.no_grad():
                self._measure(name, module, args[0], given)
        self._seconds += time.perf_counter() - start

    def _measure(self, name: str, module: nn.Module, inputs: Tensor, given: Tensor) -> None:
        values = given.detach()[:SAMPLES]
        variance, mean = torch.var_mean(values.float() if values.is_floating_point() else values, correction=0)
        found = self._found.setdefault(name, {})
        found |= {"mean": float(mean), "std": float(variance) ** 0.5}
        if given.dtype == torch.float16:
            peak = float(values.abs().amax())
            if self._peak is None or peak > self._peak[1]:
                self._peak = (name, peak)
        if given.grad_fn is not None:
            self._made[given.grad_fn] = (name, module)
        if isinstance(module, nn.Linear) and inputs.ndim == 2:
            self._head = (inputs.detach(), given.grad_fn)
        else:
            self._head = None
        if isinstance(module, nn.RNN) and given.grad_fn is not None:
            if module.mode == "RNN_TANH":
                found["saturated"] = float((given.detach()[:SAMPLES].abs() > TANH_END).float().mean())
            return
        self._before(inputs)

    def _before(self, inputs: Tensor) -> None:
        """What the inputs of a layer say of the units of the layer before it."""
        node, same = inputs.grad_fn, True
        kind = None
        for _ in range(FAR):
            if node is None or node in self._made:
                return
            kind = node.name().split("Backward")[0]
            if kind in ("Relu", "Threshold", "Hardtanh", "Tanh", "Sigmoid"):
                break
            if kind not in POOLS and kind not in SAME and not kind.startswith(POOLS):
                return
            same = same and kind in SAME
            node = _next(node)
        else:
            return
        if kind == "Hardtanh" and getattr(node, "_saved_min_val", None) != 0:
            return
        for _ in range(FAR):
            node = _next(node)
            if node is None:
                return
            if node in self._made:
                break
        else:
            return
        name, module = self._made[node]
        found = self._found.setdefault(name, {})
        values = inputs.detach()
        if kind in ("Tanh", "Sigmoid"):
            if same:
                part = values[:SAMPLES]
                ends = part.abs() > TANH_END if kind == "Tanh" else (part < SIGMOID_END) | (part > 1 - SIGMOID_END)
                found["saturated"] = float(ends.float().mean())
            return
        self._count_alive(name, module, values[:SEEN], found)

    def _count_alive(self, name: str, module: nn.Module, values: Tensor, found: dict[str, Any]) -> None:
        units = _width(module)
        if units is None:
            return
        if isinstance(module, nn.modules.conv._ConvNd):  # [B, C, ...], or flattened to [B, C * positions]
            if values.ndim == 2 and values.shape[1] % units == 0:
                values = values.reshape(len(values), units, -1)
            if values.ndim < 2 or values.shape[1] != units:
                return
            apart = [d for d in range(values.ndim) if d != 1]
        else:  # [..., F]
            if values.ndim < 2 or values.shape[-1] != units:
                return
            apart = list(range(values.ndim - 1))
        answered = ~(values.amax(dim=apart) <= 0)  # NaN is no answer, but not death either
        positions = values.numel() // (len(values) * units)
        samples = len(values) * min(positions, POSITIONS)
        silent, seen = self._silent.get(name, (torch.zeros_like(answered, dtype=torch.float32), 0))
        if silent.shape != answered.shape:
            silent, seen = torch.zeros_like(answered, dtype=torch.float32), 0
        silent, seen = (silent + samples).masked_fill(answered, 0.0), seen + samples
        self._silent[name] = (silent, seen)
        if seen >= ENOUGH:
            found |= {"dead": float((silent >= ENOUGH).float().mean()), "units": units}


def _next(node: Any) -> Any:
    """The node of the first input that has one."""
    return next((source for source, _ in node.next_functions if source is not None), None)


def _width(module: nn.Module) -> int | None:
    return getattr(module, "out_features", None) or getattr(module, "out_channels", None)
