"""A unit behind a ReLU that gives 0 for every sample has no gradient: it does not learn and does not come back.

A unit counts as dead when it is not above 0 at any place of any sample. One batch is looked at first; a layer that is
suspicious there is looked at again with up to 512 samples, so that a rare feature is not taken for a dead unit. Shares
of layers with fewer than 32 units are chance (squeeze-and-excitation has 25 to 50 % at batch 16): they count only when
all their units are dead.

Of trained weights 30 % is a warning and 50 % an error. Fresh ones have more and wake up later: where the samples differ
little (deep in a plain net) each unit is on or off for all of them, half and half; so there the bounds are higher.

Source: CS231n notes 1 (dying ReLU); reliability.md D5; fresh nets measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import as_trained, first_pass, inputs_say_nothing
from visus.doctor.patient import Patient, untouched
from visus.doctor.recording import LayerOutputs, record
from visus.doctor.thresholds import limit

NAME = "dead-units"


def dead_units(patient: Patient) -> Iterator[Finding]:
    if inputs_say_nothing(patient):
        return
    state = "trained" if patient.pretrained else "fresh"
    bound = limit(f"dead-units.{state}")
    if not any(_suspicious(layer, bound) for layer in first_pass(patient).layers.values()):
        return
    inputs, _ = patient.pooled(int(limit("dead-units.samples")))
    with untouched(patient.model), as_trained(patient.model), torch.no_grad(), record(patient.model) as layers:
        patient.model(inputs[:int(limit("dead-units.samples"))].clone())
    dead = [layer for layer in layers.values() if _suspicious(layer, bound)]
    if not dead:
        return
    worst = max(dead, key=lambda layer: layer.dead or 0.0)
    first = dead[0]
    serious = (worst.dead or 0.0) > limit(f"dead-units.{state}-error")
    yield Finding(
        check=NAME, severity="error" if serious else "warning", layer=first.module,
        title=f"{first.dead:.0%} of the {first.units} units of {first.name} are dead",
        evidence=f"not above 0 for any of {first.samples} samples: "
                 + ", ".join(f"{layer.name} {layer.dead:.0%} of {layer.units}" for layer in dead[:5])
                 + f"; at most {bound:.0%} of {state} weights" + _bias(patient.model, layers, first),
        remedy="Begin biases at 0 and weights with nn.init.kaiming_normal_, lower the rate if it was trained, or use "
               "LeakyReLU or GELU; look at the scale of the inputs")


def _suspicious(layer: LayerOutputs, bound: float) -> bool:
    if layer.dead is None or layer.units < 2:
        return False
    return layer.dead > bound and (layer.units >= limit("dead-units.units") or layer.dead == 1.0)


def _bias(model: nn.Module, layers: dict[str, LayerOutputs], dead: LayerOutputs) -> str:
    """The mean bias of the last layer with weights before the dead one, where it is far below 0."""
    names = list(layers)
    before = [layers[name].module for name in names[:names.index(dead.name)] if layers[name].parameters]
    bias = getattr(model.get_submodule(before[-1]), "bias", None) if before else None
    if not isinstance(bias, torch.Tensor) or float(bias.detach().mean()) >= -limit("dead-units.bias"):
        return ""
    return f"; the bias of {before[-1]} has a mean of {float(bias.detach().mean()):.3g}"


add(dead_units, NAME, stage="before", rank=2,
    rule="At most 30 % of the units of a trained ReLU layer (32 units or more) are 0 for every sample; 80 % of a fresh "
         "one",
    cost="the first pass; one forward pass of 512 samples where it is suspicious", course="18.09, C6.3")
