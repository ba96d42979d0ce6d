"""Dropout leaves something to learn from.

Half of the hidden units and a fifth of the inputs are what Srivastava et al. 2014 found to work (section A.4: 0.5 to
0.8 kept). At 0.9 and above little but noise arrives; a dropped input cannot be made up for. The rates are those with
which dropout is really called in training, functions as well as modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

CALLS = ("dropout", "feature_dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
         "dropout_", "feature_dropout_", "alpha_dropout_")


class Rates(TorchFunctionMode):
    """Collects (rate, name of the layer or '', shape, first use of the inputs) of each dropout that is called."""

    def __init__(self, inputs: Tensor):
        super().__init__()
        self.inputs, self.layers = inputs, [""]
        self.found: list[tuple[float, str, tuple[int, ...], bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in CALLS and args and isinstance(args[0], Tensor):
            rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            on = kwargs.get("training", args[2] if len(args) > 2 else True)
            if on and isinstance(rate, float | int):
                raw = args[0].data_ptr() == self.inputs.data_ptr()
                entry = (float(rate), self.layers[-1], tuple(args[0].shape), raw)
                if not self.found or self.found[-1][:3] != entry[:3]:  # a function that calls the other is one
                    self.found.append(entry)
        return func(*args, **kwargs)


def dropout_too_strong(patient: Patient) -> Iterator[Finding]:
    """The rates of one forward pass of two samples in training mode; norms stay in eval mode."""
    inputs = patient.first[0][:2]
    rates = Rates(inputs)
    hooks = []

    def leave(module: nn.Module, given: object, given_back: object) -> None:
        rates.layers.pop()

    patient.model.train()
    for name, module in patient.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        if name:
            hooks.append(module.register_forward_pre_hook(lambda m, given, name=name: rates.layers.append(name)))
            hooks.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad(), rates:
            patient.model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    worst: dict[str, Finding] = {}
    for rate, layer, shape, raw in rates.found:
        strong, kept = limit("dropout-too-strong.rate"), (1 - rate) * (shape[1] if len(shape) > 1 else 1)
        if rate > strong or (raw and rate > limit("dropout-too-strong.input")) or (
                len(shape) == 2 and rate >= 0.5 and kept < limit("dropout-too-strong.units")):
            where = layer or "a function in forward"
            why = (f"bound {limit('dropout-too-strong.input'):g} for inputs" if raw and rate <= strong else
                   f"bound {strong:g}" if rate > strong else
                   f"{kept:.2g} of {shape[1]} units remain, bound {limit('dropout-too-strong.units'):g}")
            worst.setdefault(where, Finding(
                check="dropout-too-strong", severity="error" if rate > limit("dropout-too-strong.error") else "warning",
                layer=layer or None, title=f"Dropout of {rate:.0%} at {where}: almost nothing passes",
                evidence=f"rate {rate:g} on {list(shape[1:])} ({why})",
                remedy="p is the share that is dropped, not that is kept: nn.Dropout(0.5) at most, 0.2 on inputs"))
    yield from worst.values()


add(dropout_too_strong, "dropout-too-strong", stage="before", rank=2,
    rule="No dropout above 0.8, on raw inputs above 0.5, or that leaves less than 2 units of a layer.",
    cost="one forward pass of 2 samples", course="C2.8, 18.03")
