"""The gradient is multiplied at each layer on its way back: by the weights and by the slope of the activation (at most
1/4 for a sigmoid). Where the product is far from 1 it vanishes or explodes with depth: the first layers stand still, or
every step is thrown about.

Compared are the weights' gradients (root mean square) of the first and of the last third of the net, the last layer
left out; for sequences also the gradients of the inputs at the first and the last steps of time.

Source: Glorot and Bengio 2010, He et al. 2015; Pascanu et al. 2013 for recurrent nets; reliability.md R3.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import torch

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import EXPECTED, as_trained, first_pass
from visus.doctor.patient import Patient, untouched
from visus.doctor.thresholds import limit

NAME = "gradient-scale"
STEPS = 8  # of time, below which no trend is looked for


def gradient_scale(patient: Patient) -> Iterator[Finding]:
    yield from _over_depth(patient)
    yield from _over_time(patient)


def _over_depth(patient: Patient) -> Iterator[Finding]:
    if patient.pretrained:
        return
    sizes = {name: p.numel() for name, p in patient.model.named_parameters() if p.ndim >= 2}
    scales = {name: norm / math.sqrt(sizes[name]) for name, norm in first_pass(patient).gradients.items()
              if name in sizes and norm is not None and norm > 0 and math.isfinite(norm)}
    names = list(scales)[:-1]
    if len(names) < 3:
        return
    third = max(1, len(names) // 3)
    first = statistics.median(scales[name] for name in names[:third])
    last = statistics.median(scales[name] for name in names[-third:])
    ratio = first / last
    if limit("gradient-scale.low") <= ratio <= limit("gradient-scale.high"):
        return
    vanishes = ratio < 1
    shown = names if len(names) <= 6 else [names[i * (len(names) - 1) // 5] for i in range(6)]
    yield Finding(
        check=NAME, severity="warning", layer=names[0].rpartition(".")[0] or None,
        title=f"The gradient {'vanishes' if vanishes else 'explodes'} on its way back: {ratio:.2g} times as large at "
              f"{names[0]} as at the end",
        evidence="root mean square of the gradient, first to last layer: "
                 + ", ".join(f"{scales[name]:.2g}" for name in shown)
                 + f"; from {limit('gradient-scale.low'):g} to {limit('gradient-scale.high'):g} is healthy",
        remedy="ReLU or GELU instead of sigmoid or tanh, nn.init.kaiming_normal_, normalisation layers, or residual "
               "connections" if vanishes else
               "Draw the weights smaller (nn.init.kaiming_normal_), add normalisation layers, clip the gradient")


def _over_time(patient: Patient) -> Iterator[Finding]:
    inputs, targets = patient.first
    if inputs.ndim != 3 or not inputs.is_floating_point() or inputs.shape[1] < STEPS:
        return
    inputs = inputs.detach().clone().requires_grad_()
    with untouched(patient.model), as_trained(patient.model), torch.enable_grad():
        try:
            patient.loss(patient.model(inputs * 1), targets).backward()
        except EXPECTED:
            return
    if inputs.grad is None:
        return
    by_time = inputs.grad.detach().float().square().mean(dim=(0, 2)).sqrt()  # [B, T, F] -> [T]
    quarter = max(1, len(by_time) // 4)
    early, late = float(by_time[:quarter].median()), float(by_time[-quarter:].median())
    if late > 0 and math.isfinite(early) and early > limit("gradient-scale.time-high") * late:
        serious = early > limit("gradient-scale.time-error") * late
        yield Finding(
            check=NAME, severity="error" if serious else "warning",
            title=f"The gradient grows {early / late:.2g}-fold on its way back through {len(by_time)} steps of time",
            evidence=f"root mean square of the inputs' gradient: {early:.2g} in the first quarter, {late:.2g} in the "
                     f"last; at most {limit('gradient-scale.time-high'):g}-fold",
            remedy="Begin the recurrent weights orthogonal (nn.init.orthogonal_), clip the gradient "
                   "(torch.nn.utils.clip_grad_norm_), or use an LSTM or GRU")
    elif late > 0 and early < limit("gradient-scale.time-low") * late:
        yield Finding(
            check=NAME, severity="note",
            title=f"The gradient shrinks to {early / late:.2g} on its way back through {len(by_time)} steps of time",
            evidence=f"root mean square of the inputs' gradient: {early:.2g} in the first quarter, {late:.2g} in the "
                     f"last; noted below {limit('gradient-scale.time-low'):g}",
            remedy="What happened early can hardly be learned: an LSTM with a forget bias of 1, a GRU, attention, or "
                   "the mean over time as the output")


add(gradient_scale, NAME, stage="before", rank=4,
    rule="The gradient of the first third of the weights is 1e-4 to 1e4 times that of the last third; through time it "
         "grows at most 30-fold",
    cost="the first pass; one pass more for sequences", course="18.09, 18.23, C6.3")
