"""At the ends of tanh and of the sigmoid the slope is next to 0: a layer most of whose outputs lie there passes no
gradient. At the start this comes from weights drawn too large or inputs without scale.

The sigmoid that gives the outputs of the model is not counted, and weights that are not fresh are only noted: gates
that were trained to be open or shut are right.

Source: CS231n notes 1 and lecture 6 (activation statistics, saturated tanh); Glorot and Bengio 2010; reliability.md
D5b (0.84 in the sick run).
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import first_pass, inputs_say_nothing
from visus.doctor.patient import Patient
from visus.doctor.recording import SIGMOID_END, TANH_END, LayerOutputs
from visus.doctor.thresholds import limit

NAME = "saturation"


def saturation(patient: Patient) -> Iterator[Finding]:
    if inputs_say_nothing(patient):
        return
    layers = list(first_pass(patient).layers.values())
    if layers and layers[-1].kind in ("Sigmoid", "sigmoid"):
        layers = layers[:-1]
    ends = [layer for layer in layers if (layer.saturated or 0.0) > limit("saturation.warning")]
    if not ends:
        return
    first, worst = ends[0], max(layer.saturated or 0.0 for layer in ends)
    serious = worst > limit("saturation.error")
    yield Finding(
        check=NAME, severity="note" if patient.pretrained else "error" if serious else "warning", layer=first.module,
        title=f"{first.saturated:.0%} of the outputs of {first.name} lie at the ends of its range",
        evidence=f"{_where(first)}: " + ", ".join(f"{layer.name} {layer.saturated:.0%}" for layer in ends[:5])
                 + f"; at most {limit('saturation.warning'):.0%}" + _before(layers, first),
        remedy="Draw the weights with nn.init.xavier_normal_, scale the inputs to mean 0 and standard deviation 1, or "
               "put a normalisation layer before it")


def _where(layer: LayerOutputs) -> str:
    if "igmoid" in layer.kind:
        return f"below {SIGMOID_END:g} or above {1 - SIGMOID_END:g}"
    return f"beyond {TANH_END:g} in size"


def _before(layers: list[LayerOutputs], layer: LayerOutputs) -> str:
    place = layers.index(layer)
    if not place or layer.parameters:
        return ""
    return f"; {layers[place - 1].name} before it gives a standard deviation of {layers[place - 1].std:.3g}"


add(saturation, NAME, stage="before", rank=2,
    rule="At most 30 % of the outputs of a tanh or sigmoid lie at the ends of its range; an error above 50 %",
    cost="the first pass", course="18.09, C6.3")
