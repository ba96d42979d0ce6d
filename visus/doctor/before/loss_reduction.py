"""The loss is one number that does not depend on how many samples a batch has.

Every batch twice, joined: a mean stays the same, a sum doubles, a mean that is divided by the batch again halves. With
a sum the learning rate is in truth multiplied by the size of the batch, and the last, smaller batch weighs less.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, each, value
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def loss_reduction(patient: Patient) -> Iterator[Finding]:
    """The loss of the first batch, and of the same batch joined to itself."""
    found = answer(patient)
    size = len(found.inputs)
    if isinstance(found.outputs, Tensor) and found.tensor is None:
        return
    once = value(patient.loss, found.outputs, found.targets)
    if not isinstance(once, Tensor):
        yield Finding(check="loss-reduction", severity="error",
                      title=f"The loss is a {type(once).__name__}, not a tensor: it has no gradient",
                      evidence=f"loss(outputs, targets) gives {once!r:.60}",
                      remedy="Return the tensor; call .item() only where the number is shown")
        return
    if once.numel() != 1:
        yield Finding(check="loss-reduction", severity="error",
                      title=f"The loss gives {once.numel()} numbers, not one: backward() refuses them",
                      evidence=f"shape {tuple(once.shape)} for a batch of {size}",
                      remedy="Take their mean: loss(...).mean(), or reduction='mean'")
        return

    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == size else tensor

    single = float(once)
    double = float(value(patient.loss, each(found.outputs, twice), twice(found.targets)))
    if not 1e-8 < abs(single) < float("inf"):
        return
    ratio, within = double / single, limit("loss-reduction.ratio")
    same = f"the same batch twice gives {ratio:.3f} times the loss (1 for a mean)"
    if abs(ratio - 2) < within:
        yield Finding(check="loss-reduction", severity="warning" if patient.kind == "values" else "error",
                      title=f"The loss is a sum over the batch: {single:.4g} for {size} samples",
                      evidence=f"{same}; {single / size:.4g} a sample",
                      remedy="reduction='mean', or divide by len(targets): the rate then holds for any batch")
    elif abs(ratio - 0.5) < within:
        yield Finding(check="loss-reduction", severity="error",
                      title=f"The loss is divided by the batch twice: {single:.4g} for {size} samples",
                      evidence=f"{same}; {single * size:.4g} once put right",
                      remedy="Leave one division out: reduction='mean' has divided by the batch already")


add(loss_reduction, "loss-reduction", stage="before", rank=1,
    rule="The loss is one number; that of a batch joined to itself is the same, not 2 or 0.5 times it within 0.02.",
    cost="one forward pass, shared", course="18.01, C2.3, C6.2")
