"""A value that is not finite spreads: once in an output, it is in the loss, in every gradient and, after one step, in
every weight. So the first place counts: inputs, targets, weights, then the layers in the order of the forward pass,
then the loss, then the gradients.

Finite outputs with a loss that is not: a logarithm of 0, a division by 0. The loss is also asked at outputs that are
sure and wrong (logits of 60): `log(softmax(x))` written out gives infinity there, which a training reaches later.

Source: CS231n notes on softmax (numeric stability); reliability.md R7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.answers import Answers
from visus.doctor.first_pass import FirstPass, first_pass
from visus.doctor.patient import Patient

NAME = "not-finite"
SURE = 60.0  # exp(-120) is 0 in float32, exp(60) is finite


def not_finite(patient: Patient) -> Iterator[Finding]:
    source = next(_sources(patient), None)
    if source is not None:
        yield source
        return
    seen = first_pass(patient)
    layer = next((layer for layer in seen.layers.values() if not layer.finite), None)
    if layer is not None:
        before = [known.name for known in seen.layers.values() if known.finite]
        yield Finding(
            check=NAME, severity="error", title=f"{layer.name} gives values that are not finite", layer=layer.module,
            evidence=f"{layer.kind}: from {layer.low:g} to {layer.high:g}; the {len(before)} layers before it are "
                     "finite, and so are inputs and weights",
            remedy="Look for a division by 0, a logarithm or root of a number that is not positive, or an overflow in "
                   "this layer; add a small epsilon, or clamp first")
    elif seen.outputs is not None and not bool(torch.isfinite(seen.outputs).all()):
        yield Finding(
            check=NAME, severity="error", title="The outputs of the model are not finite",
            evidence=f"{_share(seen.outputs)}; every layer's own output is finite",
            remedy="Look at what forward does after the last layer: a division by 0, a logarithm, an overflow")
    elif seen.loss is not None and not math.isfinite(seen.loss):
        yield Finding(
            check=NAME, severity="error", title=f"The loss is {seen.loss:g} although the outputs are finite",
            evidence=_range(seen), remedy=_STABLE)
    elif (bad := [name for name, norm in seen.gradients.items() if norm is not None and not math.isfinite(norm)]):
        yield Finding(
            check=NAME, severity="error", title=f"The gradient is not finite although the loss is, from {bad[-1]} on",
            layer=bad[-1].rpartition(".")[0] or None,
            evidence=f"{len(bad)} of {len(seen.gradients)} parameters: {', '.join(bad[-3:])}; loss {seen.loss:.4g}",
            remedy="The slope of a root or of a norm at 0, of a logarithm near 0, or torch.where over a branch that is "
                   "not finite: add a small epsilon inside")
    else:
        yield from _sure_and_wrong(patient, seen)


_STABLE = ("Use the form that takes logits: F.cross_entropy, F.binary_cross_entropy_with_logits, log_softmax; "
           "or clamp before the logarithm")


def _sources(patient: Patient) -> Iterator[Finding]:
    for number, (inputs, targets) in enumerate(patient.batches):
        for what, values in (("inputs", inputs), ("targets", targets)):
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                yield Finding(check=NAME, severity="error", title=f"The {what} hold values that are not finite",
                              evidence=f"batch {number}: {_share(values)}",
                              remedy="Find the file or the transform that makes them: torch.isfinite(x).all()")
    for name, tensor in (*patient.model.named_parameters(), *patient.model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()) and "mask" not in name:
            yield Finding(check=NAME, severity="error", title=f"The weights {name} are not finite",
                          layer=name.rpartition(".")[0] or None, evidence=_share(tensor),
                          remedy="Draw or load them anew: an earlier training diverged, or they were never set")


def _sure_and_wrong(patient: Patient, seen: FirstPass) -> Iterator[Finding]:
    if seen.outputs is None or seen.loss is None:
        return
    answers = Answers(patient.loss, seen.outputs, patient.first[1])
    if answers.kind not in ("classes", "labels"):
        return
    right = answers.right(SURE)
    if right is None:
        return
    if answers.kind == "classes":
        right = right.roll(1, dims=1)
    else:
        right = 1 - right if answers.form == "probabilities" else -right
    wrong = answers.at(right)
    if wrong is not None and not math.isfinite(wrong):
        yield Finding(
            check=NAME, severity="warning",
            title=f"The loss is {wrong:g} at outputs that are sure and wrong: it takes the logarithm of 0",
            evidence=f"asked at logits of {SURE:g} for a wrong class; now it is {seen.loss:.4g}", remedy=_STABLE)


def _share(values: Tensor) -> str:
    nan, infinite = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    return f"{nan} nan and {infinite} infinite of {values.numel()} values"


def _range(seen: FirstPass) -> str:
    if seen.outputs is None:
        return f"loss {seen.loss}"
    return f"outputs from {float(seen.outputs.min()):.4g} to {float(seen.outputs.max()):.4g}"


add(not_finite, NAME, stage="before", rank=2,
    rule="Inputs, weights, every layer's outputs, the loss and every gradient are finite; so is the loss at logits of "
         "60 for a wrong class",
    cost="the first pass: two forward passes, one backward", course="18.13, C2.3")
