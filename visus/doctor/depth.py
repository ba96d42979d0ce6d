"""How signal and gradient fare over the depth of a net, layer by layer, in one forward and one backward pass.

A rule for first weights is right where neither shrinks nor grows: CS231n lecture 6 draws it with histograms; Glorot and
Bengio 2010 (Figures 6 and 7) for both directions; Bengio, Simard and Frasconi 1994 for why a sigmoid, whose slope is at
most 1/4, loses the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visus.doctor.first_pass import as_trained
from visus.doctor.patient import untouched
from visus.doctor.recording import record

BINS = 24
REACH = 3.0  # standard deviations of the outputs to each side of 0 that a histogram covers


@dataclass(frozen=True, slots=True)
class DepthRow:
    """Of one linear layer or convolution. mean, std: of its outputs, before the norm and activation behind it.
    gradient: root mean square of the loss's slope at its outputs; None where it has none. zeros: share of zeros among
    what it gets, which is what the activations before it give; None for the first layer. dead: share of the units of
    the ReLU behind it that gave nothing above 0 for any image; saturated: share of the values of the tanh or sigmoid
    behind it at an end of its range; None where there is no such activation. counts: histogram of the outputs from
    -reach to reach, `BINS` numbers."""

    name: str
    mean: float
    std: float
    gradient: float | None
    zeros: float | None
    dead: float | None
    saturated: float | None
    reach: float
    counts: tuple[int, ...]


def depth_profile(model: nn.Module, images: Tensor, targets: Tensor,
                  loss: Callable[[Any, Tensor], Tensor]) -> list[DepthRow]:
    """The layers in the order of the forward pass (the first call of each), in train mode without dropout. images: as
    the model takes them. The model is afterwards as it was; a layer that gives numbers that are not finite has mean
    and std of nan."""
    found: dict[str, dict[str, Any]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            handles.append(module.register_forward_hook(
                lambda m, given, output, name=name: _see(found, name, given[0], output)))
    try:
        with untouched(model), as_trained(model), torch.enable_grad(), record(model) as layers:
            loss(model(images.clone().requires_grad_(True)), targets).backward()
    finally:
        for handle in handles:
            handle.remove()
    behind = _activations(layers, found)
    out = []
    for name, row in found.items():
        dead, saturated = behind.get(name, (None, None))
        out.append(DepthRow(name, row["mean"], row["std"], row.get("gradient"), row["zeros"], dead, saturated,
                            row["reach"], row["counts"]))
    return out


def _see(found: dict[str, dict[str, Any]], name: str, given: Tensor, output: Tensor) -> None:
    if name in found:
        return
    row = found[name] = {}
    with torch.no_grad():
        values = output.detach().float()
        mean, std = float(values.mean()), float(values.std(correction=0))
        finite = math.isfinite(mean) and math.isfinite(std)
        reach = REACH * math.hypot(mean, std) if finite else 0.0
        counts = torch.histc(values, BINS, -reach, reach).tolist() if reach > 0 else [0.0] * BINS
        row |= {"mean": mean if finite else math.nan, "std": std if finite else math.nan, "reach": reach,
                "counts": tuple(int(count) for count in counts),
                "zeros": float((given == 0).float().mean()) if len(found) > 1 else None}
    if output.requires_grad:
        output.register_hook(lambda slope: row.update(gradient=float(slope.float().square().mean().sqrt())))


def _activations(layers: Any, found: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """(dead, saturated) of the first activation behind each layer."""
    out: dict[str, tuple[float | None, float | None]] = {}
    last = None
    for entry in layers.values():
        if entry.name in found:
            last = entry.name
        elif last is not None and last not in out and (entry.dead is not None or entry.saturated is not None):
            out[last] = entry.dead, entry.saturated
    return out
