"""The loss wants logits and is given probabilities.

CrossEntropyLoss contains the softmax, BCEWithLogitsLoss the sigmoid. A model that ends with one gives numbers in 0..1,
whose second softmax is nearly even: with 4 classes the loss cannot fall below 0.744, and gradients stay small.
That the loss takes logits is measured and not read from its name: cross-entropy does not change when a number is added
to all scores of a row, BCE with logits is 0 at +-20. reliability.md D3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, compares_classes, number, reads_signs
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def ending(patient: Patient, kinds: tuple[str, ...]) -> str | None:
    """Name of the last layer that was called, when its class is one of these."""
    layers = answer(patient).layers
    last = layers[-1] if layers else None
    return last if last and type(patient.model.get_submodule(last)).__name__ in kinds else None


def softmax_twice(patient: Patient) -> Iterator[Finding]:
    """Rows of outputs that are probabilities in front of a loss that takes logits."""
    found = answer(patient)
    outputs = found.tensor
    if outputs is None or not bool(torch.isfinite(outputs).all()):
        return
    low, high = float(outputs.min()), float(outputs.max())
    if low < 0 or high > 1:
        return
    if outputs.ndim >= 2 and outputs.shape[1] > 1:
        off = float((outputs.sum(dim=1) - 1).abs().max())
        if off < limit("softmax-twice.sum") and compares_classes(patient.loss, outputs, found.targets):
            classes = outputs.shape[1]
            least = math.log(1 + (classes - 1) / math.e)
            layer = ending(patient, ("Softmax", "Softmax2d"))
            yield Finding(check="softmax-twice", severity="error", layer=layer,
                          title="Softmax twice: the model gives probabilities, and the loss takes the softmax again",
                          evidence=f"outputs from {low:.3g} to {high:.3g}, rows sum to 1 within {off:.1g} (bound "
                                   f"{limit('softmax-twice.sum'):g}); with {classes} classes cross-entropy cannot fall "
                                   f"below {least:.3f}",
                          remedy="Return the logits: remove the softmax from the model, and apply it only where "
                                 "probabilities are shown")
            return
        once, twofold = number(patient.loss, outputs, found.targets), number(patient.loss, 2 * outputs, found.targets)
        if off < limit("softmax-twice.sum") and not found.targets.is_floating_point() and once is not None and (
                once < 0 and twofold is not None and abs(twofold - 2 * once) <= 1e-4 * abs(once)):
            yield Finding(check="softmax-twice", severity="error", layer=ending(patient, ("Softmax", "Softmax2d")),
                          title="The loss takes logarithms of probabilities and is given the probabilities",
                          evidence=f"outputs from {low:.3g} to {high:.3g}, rows sum to 1 within {off:.1g}; the loss is "
                                   f"{once:.3g}, and twice as much for outputs twice as large: minus their mean",
                          remedy="nn.LogSoftmax(dim=1) in front of nn.NLLLoss, or the logits and nn.CrossEntropyLoss")
            return
    layer = ending(patient, ("Sigmoid", "Softmax"))
    by_name = layer is not None or found.function.startswith(("Sigmoid", "Softmax"))
    if by_name and reads_signs(patient.loss, outputs, found.targets):
        yield Finding(check="softmax-twice", severity="error", layer=layer,
                      title="Sigmoid twice: the model gives probabilities, and the loss takes the sigmoid again",
                      evidence=f"outputs from {low:.3g} to {high:.3g}; where the target is 0 the loss cannot fall "
                               "below ln 2 = 0.693",
                      remedy="Return the logits: remove the sigmoid from the model, or use BCELoss in place of "
                             "BCEWithLogitsLoss")


add(softmax_twice, "softmax-twice", stage="before", rank=1,
    rule="Outputs in front of a loss that takes logits are not within 0..1 with rows that sum to 1 within 1e-4.",
    cost="one forward pass, shared", course="18.01, C2.3, C6.2")
