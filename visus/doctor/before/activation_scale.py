"""A layer multiplies the standard deviation of what it gets by gain = std(w) * sqrt(fan in) (and the root of the mean
square of its inputs): Glorot keeps it with gain 1, He with sqrt(2) behind a ReLU. A gain that is off at every layer
grows or shrinks the outputs with depth, exponentially.

Three bounds for the linear and convolution layers of fresh weights: the size of their outputs, how much it changes over
depth where nothing normalises, and how much of it are differences between samples. The last layer and layers of zeros
are not counted: they begin small on purpose.

Source: CS231n lecture 6 (activation statistics), Glorot and Bengio 2010, He et al. 2015; reliability.md D5c (healthy
nets: 0.016 to 2.8).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import first_pass, inputs_say_nothing, lost_at
from visus.doctor.patient import Patient
from visus.doctor.recording import LayerOutputs
from visus.doctor.thresholds import limit

NAME = "activation-scale"
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def activation_scale(patient: Patient) -> Iterator[Finding]:
    if patient.pretrained or inputs_say_nothing(patient):
        return
    layers = _hidden(patient)
    if not layers:
        return
    normalised = any(isinstance(m, NORMS) or "norm" in type(m).__name__.lower() for m in patient.model.modules())
    low, high = limit("activation-scale.low"), limit("activation-scale.high")
    off = next((layer for layer in layers if not low <= layer.std <= high), None)
    largest, smallest = max(layer.std for layer in layers), min(layer.std for layer in layers)
    if off is not None:
        grows = off.std > high
        yield Finding(
            check=NAME, severity="note" if _followed_by_norm(patient, off) else "warning", layer=off.module,
            title=f"The outputs of {off.name} have a standard deviation of {off.std:.2g}",
            evidence=f"from {low:g} to {high:g} is healthy; over the layers: {_trend(layers)}; {_gain(patient, off)}",
            remedy=_remedy(grows))
    elif not normalised and largest > limit("activation-scale.ratio") * smallest:
        last = layers[-1]
        yield Finding(
            check=NAME, severity="warning", layer=last.module,
            title=f"The outputs {'grow' if last.std > layers[0].std else 'shrink'} {largest / smallest:.3g}-fold over "
                  "the depth, and nothing normalises",
            evidence=f"{_trend(layers)}; at most {limit('activation-scale.ratio'):g}-fold; {_gain(patient, last)}",
            remedy=_remedy(last.std > layers[0].std))
    else:
        yield from _drowned(patient, layers)


def _drowned(patient: Patient, layers: list[LayerOutputs]) -> Iterator[Finding]:
    """Deep in the net the samples give nearly the same: the signal has shrunk under the biases."""
    first, last = layers[0], layers[-1]
    if first.spread is None or last.spread is None or not first.std or not last.std:
        return
    begin, end = first.spread / first.std, last.spread / last.std
    if end < limit("activation-scale.differences") and begin > 10 * end and lost_at(patient) is None:
        yield Finding(
            check=NAME, severity="warning", layer=last.module,
            title=f"The differences between the samples have shrunk to {end:.2g} of the outputs at {last.name}",
            evidence=f"standard deviation over the samples over that of all outputs: {begin:.2g} at {first.name}, "
                     f"{end:.2g} at {last.name}; at least {limit('activation-scale.differences'):g}; "
                     f"{_gain(patient, last)}",
            remedy=_remedy(grows=False))


def _hidden(patient: Patient) -> list[LayerOutputs]:
    """Linear and convolution layers in the order of the pass, without the last and without those of zeros."""
    found = []
    for layer in first_pass(patient).layers.values():
        weight = getattr(patient.model.get_submodule(layer.module), "weight", None) if layer.parameters else None
        if (isinstance(weight, torch.Tensor) and weight.ndim >= 2 and layer.finite and layer.kind != "Embedding"
                and bool(weight.detach().any())):
            found.append(layer)
    return found[:-1]


def _followed_by_norm(patient: Patient, layer: LayerOutputs) -> bool:
    names = list(first_pass(patient).layers)
    after = names[names.index(layer.name) + 1:][:1]
    return bool(after) and "norm" in first_pass(patient).layers[after[0]].kind.lower()


def _gain(patient: Patient, layer: LayerOutputs) -> str:
    weight = patient.model.get_submodule(layer.module).weight
    assert isinstance(weight, torch.Tensor)
    gain = float(weight.detach().float().square().mean().sqrt()) * math.sqrt(weight[0].numel())
    return f"its weights have a gain of {gain:.2g}, theory 1 (tanh) to 1.41 (ReLU)"


def _trend(layers: list[LayerOutputs]) -> str:
    shown = layers if len(layers) <= 6 else [layers[i * (len(layers) - 1) // 5] for i in range(6)]
    return ", ".join(f"{layer.std:.2g}" for layer in shown)


def _remedy(grows: bool) -> str:
    return ("Draw the weights smaller" if grows else "Draw the weights larger") + (
        ": nn.init.kaiming_normal_(w, nonlinearity='relu') before a ReLU, nn.init.xavier_normal_(w) before tanh, "
        "biases 0; or add normalisation layers or residual connections")


add(activation_scale, NAME, stage="before", rank=5,
    rule="Fresh hidden layers give outputs with a standard deviation of 1e-3 to 100, at most 1000-fold different over "
         "the depth where nothing normalises, and not only the same for all samples",
    cost="the first pass", course="18.09, 18.23, C6.3")
