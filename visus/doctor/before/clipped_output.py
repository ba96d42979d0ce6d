"""The last function does not bar the way to the right answer.

Scores for cross-entropy must reach far below and above 0. A last ReLU cuts off one side, and the gradient with it
wherever it is 0; tanh and sigmoid leave the scores at most 2 or 1 apart, so that the loss of C classes cannot fall
below ln(1 + (C - 1) e^-2) or ln(1 + (C - 1) e^-1). For values: targets outside of what the last function can give.
The function is read from the graph, so that `torch.relu` in `forward` counts as well as `nn.ReLU`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, compares_classes, reads_signs
from visus.doctor.before.softmax_twice import ending
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

REACH = {  # beginning of the function's name in the graph: the name, the least and the most that it gives
    "Relu": ("ReLU", 0.0, math.inf), "Threshold": ("ReLU", 0.0, math.inf), "Tanh": ("tanh", -1.0, 1.0),
    "Sigmoid": ("sigmoid", 0.0, 1.0), "Softplus": ("softplus", 0.0, math.inf), "Softmax": ("softmax", 0.0, 1.0),
    "Hardtanh": ("hardtanh", -1.0, 1.0), "Hardsigmoid": ("hardsigmoid", 0.0, 1.0),
    "LogSigmoid": ("logsigmoid", -math.inf, 0.0), "Elu": ("ELU", -1.0, math.inf),
    "Silu": ("SiLU", -0.28, math.inf), "Gelu": ("GELU", -0.17, math.inf), "Softsign": ("softsign", -1.0, 1.0),
}
MODULES = ("ReLU", "ReLU6", "Tanh", "Sigmoid", "Softplus", "Softmax", "Hardtanh", "Hardsigmoid", "LogSigmoid", "ELU",
           "SiLU", "GELU", "Softsign")


def clipped_output(patient: Patient) -> Iterator[Finding]:
    """The last function of the graph against what the loss or the targets need."""
    found = answer(patient)
    outputs, targets = found.tensor, found.targets
    known = next((REACH[name] for name in REACH if found.function.startswith(name)), None)
    if outputs is None or known is None or not bool(torch.isfinite(outputs).all()):
        return
    name, low, high = known
    layer = ending(patient, MODULES)
    module = patient.model.get_submodule(layer) if layer else None
    if isinstance(module, nn.Hardtanh):  # ReLU6 too
        low, high = float(module.min_val), float(module.max_val)
    remedy = f"End with the linear layer: remove the {name} behind it"
    if name != "softmax" and compares_classes(patient.loss, outputs, targets):
        classes = outputs.shape[1]
        if math.isfinite(high - low):
            why = (f"scores are at most {high - low:g} apart: with {classes} classes cross-entropy cannot fall below "
                   f"{math.log(1 + (classes - 1) * math.exp(low - high)):.3f}")
        else:
            why = (f"{float((outputs == 0).double().mean()):.0%} of the scores are exactly 0, no gradient goes through "
                   "them" if name == "ReLU" else f"no score can pass {low if math.isfinite(low) else high:g}")
        yield Finding(check="clipped-output", severity="error", layer=layer, remedy=remedy,
                      title=f"The scores pass through a {name} before the loss",
                      evidence=f"outputs from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}; {why}")
    elif name not in ("softmax", "sigmoid") and reads_signs(patient.loss, outputs, targets):
        side = "a score below 0, the sign of a 0," if low > -1 else f"a score beyond {low:g} to {high:g}"
        yield Finding(check="clipped-output", severity="error", layer=layer, remedy=remedy,
                      title=f"The logits pass through a {name} before the loss",
                      evidence=f"outputs from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}; {side} cannot "
                               "be given")
    elif targets.is_floating_point() and targets.numel() == outputs.numel():
        every = torch.cat([batch[1].flatten() for batch in patient.batches]).double()
        outside = ((every < low) | (every > high)).double().mean().item()
        if outside > limit("clipped-output.outside"):
            yield Finding(check="clipped-output", severity="error", layer=layer, remedy=remedy,
                          title=f"The {name} at the end cannot give {outside:.0%} of the targets",
                          evidence=f"targets from {float(every.min()):.3g} to {float(every.max()):.3g}, outputs from "
                                   f"{low:g} to {high:g} (bound: {limit('clipped-output.outside'):.0%} outside)")


add(clipped_output, "clipped-output", stage="before", rank=2,
    rule="No ReLU, tanh, sigmoid or the like between the last weights and a loss that takes logits; at most 5 % of the "
         "values to predict lie outside of what the last function gives.",
    cost="one forward pass, shared", course="C2.3, C6.2")
