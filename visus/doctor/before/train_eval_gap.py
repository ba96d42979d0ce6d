"""The same batch has about the same loss in training and in eval mode.

Dropout and the norm of a batch make a small difference. A large one says that the two modes are two nets: running
statistics that never arrive (a momentum of 0.001 where 0.1 is meant), a branch of one mode only. And eval mode is no
lottery: `F.dropout(x)` without `training=self.training` stays on for good. Norms that have no statistics of this data
yet, fresh or of pretrained weights, use those of the batch in both modes: statistics of a few batches instead make the
loss of a healthy ConvMixer of 32 layers 577 in eval mode (measured at batches of 4; 5.6 at 16), since the small errors
of each norm grow through the others. reliability.md D10.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import detached, number
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

DRAWS = 4


def mean_loss(patient: Patient, model: nn.Module, draws: int) -> float | None:
    """Mean loss of the first batch in the mode that the model is in."""
    found = []
    for inputs, targets in patient.batches[:1]:
        for _ in range(draws):
            found.append(number(patient.loss, detached(model(inputs)), targets))
    known = [loss for loss in found if loss is not None]
    return sum(known) / len(known) if len(known) == len(found) and known else None


def in_mode(model: nn.Module, training: bool, unmeasured: list[nn.Module]) -> nn.Module:
    """The model in this mode; norms without statistics in training mode always."""
    model.train(training)
    for module in unmeasured:
        module.train()
    return model


def by_part(patient: Patient, model: nn.Module, train: float, evaluated: float,
            unmeasured: list[nn.Module]) -> tuple[str, str | None]:
    """Which kind of layer makes the difference: training mode with one kind of layer in eval mode at a time."""
    kinds: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)) or (
                name and not list(module.children()) and not type(module).__module__.startswith("torch.")):
            kinds.setdefault(type(module).__name__, []).append(name)
    texts, layer = [], None
    for kind, names in kinds.items():
        in_mode(model, True, unmeasured)
        for name in names:
            if model.get_submodule(name) not in unmeasured:
                model.get_submodule(name).eval()
        loss = mean_loss(patient, model, 1)
        if loss is not None:
            texts.append(f"{loss:.4g} with only {kind} in eval mode")
            if layer is None and abs(loss - evaluated) < 0.3 * abs(train - evaluated):
                layer = names[0]
    return "; ".join(texts), layer


@torch.no_grad()
def train_eval_gap(patient: Patient) -> Iterator[Finding]:
    """Two passes of 8 samples in eval mode, then the first batch in both modes."""
    model = copy.deepcopy(patient.model).eval()
    inputs = patient.first[0][:8]
    once, again = detached(model(inputs)), detached(model(inputs))
    if isinstance(once, Tensor) and isinstance(again, Tensor) and once.shape == again.shape:
        apart = float((once.double() - again.double()).abs().max())
        size = float(once.double().abs().max())
        if apart > limit("train-eval-gap.random") * max(size, 1e-12):
            yield Finding(check="train-eval-gap", severity="warning", title="The outputs are random in eval mode",
                          evidence=f"two passes of the same batch differ by {apart:.3g}, with outputs up to {size:.3g} "
                                   f"(bound {limit('train-eval-gap.random'):g} of them)",
                          remedy="F.dropout(x, p, training=self.training), or nn.Dropout(p) as a module")
            return
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    fresh = [(name, m) for name, m in norms if m.track_running_stats and m.num_batches_tracked is not None
             and int(m.num_batches_tracked) == 0]
    slow = [(name, m.momentum) for name, m in fresh if m.momentum is not None
            and m.momentum < limit("train-eval-gap.momentum")]
    if slow and not patient.pretrained:
        name, momentum = slow[0]
        yield Finding(check="train-eval-gap", severity="warning", layer=name,
                      title=f"The running statistics of {name} hardly move: momentum {momentum:g}",
                      evidence=f"{len(slow)} norms; after 100 batches they are {1 - (1 - momentum) ** 100:.0%} of what "
                               f"was measured, the rest is 0 and 1 (bound {limit('train-eval-gap.momentum'):g})",
                      remedy="momentum=0.1: here it is the share of the new, 1 - 0.9 of other frameworks")
        return
    small = len(inputs) < limit("train-eval-gap.batch")  # small-batch-norm says it
    unmeasured: list[nn.Module] = [m for _, m in (norms if patient.pretrained or small else fresh)]
    if len(patient.first[0]) < 2 and norms:
        return
    evaluated = mean_loss(patient, in_mode(model, False, unmeasured), 1)
    train = mean_loss(patient, in_mode(model, True, unmeasured), DRAWS if any(
        isinstance(m, nn.modules.dropout._DropoutNd) for m in model.modules()) else 1)
    if train is None or evaluated is None or max(abs(train), abs(evaluated)) < limit("train-eval-gap.loss"):
        return
    low, high = sorted((abs(train), abs(evaluated)))
    if high > limit("train-eval-gap.ratio") * low:
        parts, layer = by_part(patient, model, train, evaluated, unmeasured)
        yield Finding(check="train-eval-gap", severity="warning", layer=layer,
                      title=f"The same batch has a loss of {train:.3g} in training and {evaluated:.3g} in eval mode",
                      evidence=f"ratio {high / max(low, 1e-12):.2f} (bound {limit('train-eval-gap.ratio'):g})"
                               + (f"; {parts}" if parts else ""),
                      remedy="See what the layer named does differently in the two modes; for BatchNorm: larger "
                             "batches, its momentum, or GroupNorm")


add(train_eval_gap, "train-eval-gap", stage="before", rank=4,
    rule="The loss of a batch in training and in eval mode differs by at most a factor of 2; eval mode is not random.",
    cost="two forward passes and two of 8 samples, five with dropout", course="C2.7, C2.8, 18.07")
