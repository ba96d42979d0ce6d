"""Every target means something to the outputs.

Labels of C classes are 0 to C - 1. Labels from 1 on fail at the last class or shift each name by one; a column [B, 1]
against [B] is spread to [B, B] by MSE and BCE; soft labels must sum to 1 in front of a softmax; BCE takes 0 to 1.
Where the loss refuses the targets, the change is looked for with which it does not. reliability.md D9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, compares_classes, number, value
from visus.doctor.patient import Loss, Patient
from visus.doctor.thresholds import limit

FITS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("targets.long()", lambda t: t.long()), ("targets.float()", lambda t: t.float()),
    ("targets.squeeze(1)", lambda t: t.squeeze(1)), ("targets.squeeze(1).long()", lambda t: t.squeeze(1).long()),
    ("targets.unsqueeze(1)", lambda t: t.unsqueeze(1)),
    ("targets.unsqueeze(1).float()", lambda t: t.unsqueeze(1).float()),
    ("targets.argmax(dim=1)", lambda t: t.argmax(dim=1)),
)


def counts_outputs(loss: Loss, outputs: Tensor) -> bool:
    """The loss takes a label for the place of an output: it refuses one far beyond. A loss of pairs or triplets, for
    which labels are only equal or not, takes any. Tried on the CPU: on a GPU such a label ends the process."""
    outputs = outputs.cpu()
    known = torch.zeros((len(outputs), *outputs.shape[2:]), dtype=torch.int64)
    return number(loss, outputs, known) is None or number(loss, outputs, known + outputs.shape[1] + 1009) is None


def ignored(loss: Loss, outputs: Tensor, label: int) -> bool:
    """The loss passes this number over: a sample that has it changes nothing."""
    outputs = outputs.cpu()
    known = torch.zeros((len(outputs), *outputs.shape[2:]), dtype=torch.int64)
    other = torch.cat([known, torch.full_like(known, label)])
    alone, beside = number(loss, outputs, known), number(loss, torch.cat([outputs, outputs]), other)
    return alone is not None and beside is not None and abs(alone - beside) <= 1e-4 * (1 + abs(alone))


def by_class(patient: Patient, outputs: Tensor) -> Iterator[Finding]:
    """Labels as whole numbers against the number of outputs."""
    classes = outputs.shape[1]
    labels = torch.cat([t.flatten() for t in (*patient.order, *(b[1].cpu() for b in patient.batches))]).long()
    beyond = labels[(labels < 0) | (labels >= classes)].unique().tolist()[:8]
    passed = [label for label in beyond if ignored(patient.loss, outputs, label)]
    labels = labels[~torch.isin(labels, torch.tensor(passed, dtype=torch.int64))]
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    numbers = f"{len(labels)} labels from {low} to {high}, {classes} outputs"
    if low >= 1 and high == classes:
        yield Finding(check="label-range", severity="error", title=f"The labels count from {low}, the outputs from 0",
                      evidence=f"{numbers}: the last label has no output", remedy="targets - 1 in the data set")
    elif low < 0 or high >= classes:
        outside = labels[(labels < 0) | (labels >= classes)]
        values = ", ".join(map(str, outside.unique().tolist()[:5]))
        yield Finding(check="label-range", severity="error",
                      title=f"Labels outside 0 to {classes - 1}: {values}",
                      evidence=f"{numbers}; {len(outside)} are outside",
                      remedy=f"Give the model {high + 1} outputs, or map the labels: {{old: new}}" if low >= 0 else
                             "Map the labels to 0 and up; what is to be passed over is ignore_index of the loss")
    elif len(labels) >= limit("label-range.seen") * classes:
        never = sorted(set(range(classes)) - set(labels.unique().tolist()))
        if never:
            yield Finding(check="label-range", severity="note",
                          title=f"{len(never)} of {classes} outputs have no label: {', '.join(map(str, never[:8]))}",
                          evidence=numbers, remedy=f"Is the head made for {classes} classes, and do labels begin at 0?")


def label_range(patient: Patient) -> Iterator[Finding]:
    """Targets against outputs and loss: range, type, shape, sums."""
    found = answer(patient)
    outputs, targets, loss = found.tensor, found.targets, patient.loss
    if outputs is None or not bool(torch.isfinite(outputs).all()):
        return
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    by_row = outputs.ndim >= 2 and outputs.shape[1] > 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]
    if whole and by_row and counts_outputs(loss, outputs):
        wrong = list(by_class(patient, outputs))
        yield from wrong
        if any(finding.severity == "error" for finding in wrong):
            return
    numbers = f"outputs {str(outputs.dtype)[6:]} {list(outputs.shape)}, targets {str(targets.dtype)[6:]} " \
              f"{list(targets.shape)}"
    try:
        value(loss, outputs, targets)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        for text, change in FITS:
            try:
                fits = number(loss, outputs, change(targets))
            except (RuntimeError, ValueError, TypeError, IndexError):
                continue
            if fits is not None:
                yield Finding(check="label-range", severity="error",
                              title="The loss refuses the targets' type or shape",
                              evidence=f"{numbers}; {str(error).splitlines()[0][:120]}", remedy=f"{text} is accepted")
                return
        yield Finding(check="label-range", severity="error", title="The loss refuses outputs and targets",
                      evidence=f"{numbers}; {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",
                      remedy="Call loss(model(inputs), targets) on one batch and make the shapes agree")
        return
    if outputs.ndim <= 2 and targets.ndim <= 2 and outputs.ndim != targets.ndim and len(
            targets) > 1 and targets.numel() == outputs.numel():
        spread, same = number(loss, outputs, targets), number(loss, outputs.reshape(targets.shape), targets)
        if spread is not None and same is not None and abs(spread - same) > 1e-4 * (1 + abs(same)):
            yield Finding(check="label-range", severity="error",
                          title=f"Each output is compared with all {len(targets)} targets",
                          evidence=f"{numbers}: they are spread to [{len(targets)}, {len(targets)}]; the loss is "
                                   f"{spread:.4g}, and {same:.4g} for equal shapes",
                          remedy="outputs.squeeze(1)" if outputs.ndim == 2 else "targets.squeeze(1)")
            return
    if not targets.is_floating_point() or targets.shape != outputs.shape:
        return
    every = torch.cat([t for t in (targets.cpu(), *patient.order) if t.shape[1:] == targets.shape[1:]]).double()
    low, high = float(every.min()), float(every.max())
    if compares_classes(loss, outputs, targets):
        sums = every.sum(dim=1)
        off = float((sums - 1).abs().max())
        if off > limit("label-range.sum") or low < 0:
            hot = bool(((every == 0) | (every == 1)).all())
            yield Finding(check="label-range", severity="error",
                          title="Several labels a sample, and a loss for exactly one" if hot else
                                "Soft labels are not shares of 1",
                          evidence=f"rows sum to {float(sums.min()):.3g} to {float(sums.max()):.3g} (1 within "
                                   f"{limit('label-range.sum'):g}), values from {low:.3g} to {high:.3g}",
                          remedy="nn.BCEWithLogitsLoss() for several labels" if hot else
                                 "targets / targets.sum(dim=1, keepdim=True)")
    elif (low < 0 or high > 1) and is_bce(loss, outputs, targets):
        yield Finding(check="label-range", severity="error", title=f"BCE is given targets from {low:.3g} to {high:.3g}",
                      evidence=f"{len(every)} rows; it takes 0 to 1, and has no lower bound outside",
                      remedy="(targets > 0).float()")


def is_bce(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """By class, or because it gives the same number."""
    if isinstance(loss, nn.BCEWithLogitsLoss) or loss is F.binary_cross_entropy_with_logits:
        return True
    given = number(loss, outputs, targets)
    plain = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))
    return given is not None and abs(given - float(plain)) <= 1e-4 * (1 + abs(given))


add(label_range, "label-range", stage="before", rank=1,
    rule="Labels are 0 to C - 1, of the shape and type that the loss takes; soft labels sum to 1 within 1e-3.",
    cost="one forward pass, shared", course="C2.3, C6.2")
