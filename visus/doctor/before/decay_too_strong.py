"""Weight decay does not undo what the gradient does.

SGD and decoupled decay (AdamW, Lion) multiply the weights by 1 - lr * decay at each step, with momentum m by about
1 - lr * decay / (1 - m): at 0.01 they halve in 70 steps, whatever the batches say. In Adam's own `weight_decay`, and in
a penalty that is added to the loss, it joins the gradient, which Adam then scales: there its share of the gradient
counts. Measured on digits, 200 steps, MLP and CNN, accuracy of training: at lr * decay = 1e-3 as without (0.98, 0.98),
3e-3: 0.98 and 0.95; 1e-2: 0.98 and 0.76 (SGD 0.97 and 0.83); 3e-2: 0.94 and 0.53; Adam: share 0.2: 0.98, 0.6: 0.95,
2: 0.85, 20: chance. Loshchilov and Hutter 2019; reliability.md D2b.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

ADAPTIVE = ("Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta")


def joins_the_gradient(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Decay is added to a gradient that is scaled afterwards."""
    return type(optimizer).__name__ in ADAPTIVE and not group.get("decoupled_weight_decay", False)


def step_factor(group: dict[str, Any]) -> float:
    """Learning rate at its peak, times what momentum makes of it in the long run (1 for Adam's first moment)."""
    rate = max(float(group.get(key) or 0.0) for key in ("lr", "initial_lr", "max_lr"))
    momentum = float(group.get("momentum") or 0.0)
    return rate / (1 - momentum) if 0 <= momentum < 1 and not group.get("dampening") else rate


def gradients(patient: Patient, wanted: list[nn.Parameter], of_penalty: bool) -> list[Tensor | None]:
    """Of the loss of the first batch, or of the penalty, without touching .grad."""
    with torch.enable_grad():
        if of_penalty:
            assert patient.penalty is not None
            loss = patient.penalty(patient.model)
        else:
            loss = patient.loss(patient.model.train()(patient.first[0]), patient.first[1])
        if not isinstance(loss, Tensor) or not loss.requires_grad or loss.numel() != 1:
            return [None] * len(wanted)
        return list(torch.autograd.grad(loss, wanted, allow_unused=True))


def decay_too_strong(patient: Patient) -> Iterator[Finding]:
    """The strongest decay of all groups: by step, or by its share of the gradient."""
    optimizer = patient.optimizer
    if optimizer is None:
        return
    own = {id(p) for p in patient.model.parameters() if p.requires_grad and p.ndim > 1}
    worst = (0.0, 0.0)
    scaled: list[tuple[nn.Parameter, float]] = []
    for group in optimizer.param_groups:
        held = [p for p in group["params"] if id(p) in own]
        decay = float(group.get("weight_decay") or 0.0)
        if not held:
            continue
        pulls = [decay] * len(held)
        adaptive = joins_the_gradient(optimizer, group) or (
            patient.penalty is not None and not decay and type(optimizer).__name__ in (*ADAPTIVE, "AdamW"))
        if patient.penalty is not None:
            for i, (p, g) in enumerate(zip(held, gradients(patient, held, of_penalty=True), strict=True)):
                if g is not None and float(p.detach().norm()) > 0:  # the part along the weights, as a decay
                    along = float((g * p.detach()).sum() / p.detach().norm() ** 2)
                    pulls[i] += along
        if adaptive:
            scaled += [(p, pull) for p, pull in zip(held, pulls, strict=True) if pull > 0]
            continue
        worst = max(worst, (max(pulls) * step_factor(group), max(pulls)))
    shrink, decay = worst
    if shrink > limit("decay-too-strong.step"):
        half = 0.693 / shrink
        yield Finding(check="decay-too-strong",
                      severity="error" if shrink > limit("decay-too-strong.error") else "warning",
                      title=f"Weight decay of {decay:g} halves the weights every {max(half, 1):.0f} steps",
                      evidence=f"learning rate times decay {shrink:.2g} a step, momentum counted (bound "
                               f"{limit('decay-too-strong.step'):g})",
                      remedy=f"weight_decay={decay * 1e-3 / shrink:.1g} at this rate; usual are 1e-4 for SGD, 0.01 to "
                             "0.1 for AdamW")
    if not scaled:
        return
    found = gradients(patient, [p for p, _ in scaled], of_penalty=False)
    shares = [pull * float(p.detach().norm()) / float(g.norm()) for (p, pull), g in zip(scaled, found, strict=True)
              if g is not None and float(g.norm()) > 0]
    bound = limit("decay-too-strong.share-pretrained" if patient.pretrained else "decay-too-strong.share")
    if shares and median(shares) > bound:
        pull = max(pull for _, pull in scaled)
        yield Finding(check="decay-too-strong", severity="error" if median(shares) > 5 * bound else "warning",
                      title=f"Weight decay of {pull:g} is {median(shares):.1f} times the gradient",
                      evidence=f"median over {len(shares)} weights, first batch (bound {bound:g}); "
                               f"{type(optimizer).__name__} scales the sum of both",
                      remedy="torch.optim.AdamW with weight_decay=0.01, or weight_decay="
                             f"{pull * 0.05 / median(shares):.1g}")


add(decay_too_strong, "decay-too-strong", stage="before", rank=2,
    rule="Decay takes at most 0.005 of the weights a step; where the optimizer scales it, it is at most the gradient.",
    cost="none; one backward pass for Adam with decay", course="C2.2, 18.08")
