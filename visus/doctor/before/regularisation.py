"""What is added to the loss for large weights raises the loss, and more for larger weights.

CS231n's second sanity check: the loss rises with the regularisation. A penalty of weights that were detached has no
gradient and does nothing; one with the wrong sign makes weights grow. reliability.md D2b. Biases and the scales of
norms that decay are listed: shrinking them costs accuracy more often than it helps (He et al. 2019, section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import counted_names
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit


def regularisation(patient: Patient) -> Iterator[Finding]:
    """The penalty at the weights and at weights a tenth larger; its gradient; what the optimizer decays."""
    if patient.penalty is not None:
        yield from of_penalty(patient)
    if patient.optimizer is None:
        return
    names = {id(p): name for name, p in patient.model.named_parameters()}
    flat = [names[id(p)] for group in patient.optimizer.param_groups for p in group["params"]
            if group.get("weight_decay") and p.ndim <= 1 and id(p) in names and p.requires_grad]
    if flat:
        yield Finding(check="regularisation", severity="note",
                      title=f"Weight decay also shrinks {len(flat)} biases and norms",
                      evidence=counted_names(flat),
                      remedy="Two groups: {'params': [p for p in model.parameters() if p.ndim > 1]} with the decay, "
                             "the rest with 0")
    if patient.penalty is not None and any(group.get("weight_decay") for group in patient.optimizer.param_groups):
        decay = max(group.get("weight_decay", 0.0) for group in patient.optimizer.param_groups)
        yield Finding(check="regularisation", severity="note", title="Weights are decayed twice",
                      evidence=f"the loop adds a penalty, and {type(patient.optimizer).__name__} has weight_decay="
                               f"{decay:g}", remedy="Keep one of the two")


def of_penalty(patient: Patient) -> Iterator[Finding]:
    """The penalty itself."""
    assert patient.penalty is not None
    model = copy.deepcopy(patient.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        now = patient.penalty(model)
    if not isinstance(now, Tensor) or now.numel() != 1 or not bool(torch.isfinite(now).all()):
        yield Finding(check="regularisation", severity="error", title="The penalty is not a finite number with a graph",
                      evidence=f"penalty(model) gives {now!r:.80}", remedy="sum((p ** 2).sum() for p in "
                      "model.parameters()), without .item(), .data or .detach()")
        return
    gradients = torch.autograd.grad(now, parameters, allow_unused=True) if now.requires_grad else ()
    now = now.detach()
    felt = sum(float(g.norm()) > 0 for g in gradients if g is not None)
    if not felt:
        yield Finding(check="regularisation", severity="error",
                      title="The penalty has no gradient: it raises the number that is shown and changes nothing",
                      evidence=f"penalty {float(now):.4g}; 0 of {len(parameters)} parameters get a gradient from it",
                      remedy="Compute it from model.parameters() inside the step, without .item(), .data or .detach()")
        return
    grown = limit("regularisation.growth")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(grown)
        later = float(patient.penalty(model).detach())
    if later <= float(now) or float(now) < 0:
        wrong = "negative" if float(now) < 0 else "not larger for larger weights"
        yield Finding(check="regularisation", severity="error", title=f"The penalty is {wrong}: it makes weights grow",
                      evidence=f"penalty {float(now):.4g}, with all weights times {grown:g} {later:.4g} (it must rise)",
                      remedy="Add it to the loss with a positive factor: loss + 0.5 * decay * squared_norm")


add(regularisation, "regularisation", stage="before", rank=2,
    rule="The penalty is at least 0, has a gradient, and rises when all weights grow by a tenth.",
    cost="two penalties", course="18.01, C6.2, C2.2")
