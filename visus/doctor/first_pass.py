"""One forward and one backward pass of the first batch, measured once for all checks that ask about it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visus.doctor.patient import Batch, Patient, untouched
from visus.doctor.recording import Recording, record

EXPECTED = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class FirstPass:
    """layers: what each layer gave. outputs: of the model, detached. loss: its value, without `patient.penalty`.
    gradients: parameter -> norm of its gradient, None where it got none; empty when there was no backward pass.
    failed: the part that raised, and `error` what it raised, inside the module `place`.
    seconds: of forward and backward without the measuring. outputs_attached: they know the parameters.
    """

    layers: Recording
    outputs: Any = None
    loss: float | None = None
    gradients: dict[str, float | None]
    failed: str | None = None
    error: Exception | None = None
    place: str | None = None
    seconds: float = 0.0
    outputs_attached: bool = True


@contextmanager
def as_trained(model: nn.Module) -> Iterator[None]:
    """Train mode without chance: dropout and drop-path are off, normalisation uses the batch. A model that is wholly
    in eval mode is put in train mode; parts that alone are in eval mode (frozen normalisation) stay so. Afterwards
    modes and plain attributes (a state that a model carries) are what they were."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        if not any(m.training for m in model.modules() if any(True for _ in m.parameters(recurse=False))):
            model.train()
        for module in model.modules():
            inside = isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
            if inside or "drop" in type(module).__name__.lower():
                module.eval()
        yield
    finally:
        for module, attributes in before:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)


def first_pass(patient: Patient) -> FirstPass:
    """The pass of `patient`; measured at the first call, remembered afterwards. Nothing of the model is changed.
    Cost: two forward passes and one backward."""
    known = patient.remembered.get("first-pass")
    if known is None:
        with untouched(patient.model), as_trained(patient.model), torch.enable_grad():
            known = _measured(patient, patient.first)
        patient.remembered["first-pass"] = known
    return known


def _measured(patient: Patient, batch: Batch) -> FirstPass:
    model, (inputs, targets) = patient.model, batch
    model.zero_grad(set_to_none=True)
    layers = Recording()
    try:
        with record(model) as layers, torch.no_grad():
            model(inputs.clone())  # a model may work in place
        start = time.perf_counter()
        outputs = model(inputs.clone())
    except EXPECTED as error:
        return FirstPass(layers=layers, gradients={}, failed="forward", error=error, place=layers.inside)
    kept = outputs.detach() if isinstance(outputs, Tensor) else None
    attached = not isinstance(outputs, Tensor) or outputs.requires_grad
    try:
        loss = patient.loss(outputs, targets)
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
    except EXPECTED as error:
        return FirstPass(layers=layers, outputs=kept, gradients={}, failed="loss", error=error,
                         outputs_attached=attached)
    try:
        loss.backward()
    except EXPECTED as error:
        return FirstPass(layers=layers, outputs=kept, loss=value, gradients={}, failed="backward", error=error,
                         outputs_attached=attached)
    seconds = time.perf_counter() - start
    gradients = {name: None if p.grad is None else float(p.grad.detach().float().norm())
                 for name, p in model.named_parameters() if p.requires_grad}
    return FirstPass(layers=layers, outputs=kept, loss=value, gradients=gradients, seconds=seconds,
                     outputs_attached=attached)


def inputs_say_nothing(patient: Patient) -> bool:
    """The inputs are all the same number, or not finite: what the net makes of them tells nothing of the net."""
    inputs = patient.first[0]
    if not inputs.is_floating_point():
        return False
    values = inputs.detach().float()
    return not bool(torch.isfinite(values).all()) or bool(values.min() == values.max())


def differences(patient: Patient) -> list[tuple[str, float]]:
    """Layer -> standard deviation over the samples as a share of the size of its outputs, in the order of the pass."""
    return [(layer.name, layer.spread / math.hypot(layer.mean, layer.std))
            for layer in first_pass(patient).layers.values()
            if layer.spread is not None and layer.finite and math.hypot(layer.mean, layer.std) > 0]


def lost_at(patient: Patient) -> str | None:
    """The layer at which the differences between samples end at once, at least a thousandfold; None where they do not
    end, or fade from layer to layer."""
    before = None
    for name, share in differences(patient):
        if before is not None and before > 1e-5 and share < before / 1000:
            return name
        before = share if share > 0 else before
    return None


def fade(patient: Patient) -> bool:
    """The differences between samples shrink from layer to layer until little is left, without ending at once."""
    shares = [share for _, share in differences(patient)]
    return len(shares) > 3 and lost_at(patient) is None and min(shares[-3:]) < 1e-3 * max(shares[:3])
