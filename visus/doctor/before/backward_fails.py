"""A pass that stops with an error is told in the words of the training loop: which part, which layer, what to change.

Forward, loss and backward run once with the first batch and a second time with the next: a state that is carried from
batch to batch fails only then. Explained: a change in place of what the gradient needs, a loss cut off from the
parameters (`detach`, `no_grad`, `item`, argmax, a new tensor), no parameter that asks for a gradient, a loss that is no
scalar, types and shapes that do not fit, a graph that is used twice.

Source: PyTorch's notes on autograd mechanics; reliability.md finding 10 and rule R2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import EXPECTED, FirstPass, as_trained, first_pass
from visus.doctor.patient import Patient, untouched

NAME = "backward-fails"


def backward_fails(patient: Patient) -> Iterator[Finding]:
    seen = first_pass(patient)
    if seen.error is not None:
        yield _explained(patient, seen, seen.failed or "", seen.error)
        return
    error = _twice(patient)
    if error is not None:
        yield _finding("The second batch cannot be trained on: the graph of the first one is still in use", error,
                       "Cut what is carried from one batch to the next: state = state.detach(), and keep sums of the "
                       "loss as loss.item()")


def _explained(patient: Patient, seen: FirstPass, part: str, error: Exception) -> Finding:
    text = str(error)
    if part == "forward":
        where = f" in {seen.place}" if seen.place else ""
        return _finding(f"The forward pass fails{where}: {_first_line(error)}", error, _fitting(text, "the inputs"),
                        layer=seen.place)
    if part == "loss":
        return _finding(f"The loss cannot be computed: {_first_line(error)}", error, _fitting(text, "the targets"))
    if "inplace operation" in text or "in-place operation" in text:
        operation, layer = _operation(text), _changed(patient)
        behind = f" after {layer}" if layer else ""
        return _finding(f"A tensor that the gradient needs is changed in place{behind}", error,
                        "Write x = x + y instead of x += y, x * y instead of mul_, inplace=False"
                        + (f"; the changed tensor came from {operation}" if operation else ""), layer=layer)
    if "does not require grad" in text or "has no attribute 'backward'" in text:
        if not any(p.requires_grad for p in patient.model.parameters()):
            return _finding("No parameter asks for a gradient: all are frozen", error,
                            "model.requires_grad_(True), or thaw the layers that are to be trained")
        if not seen.outputs_attached:
            return _finding("The outputs of the model are cut off from its parameters", error,
                            "Remove torch.no_grad, detach(), .data or a way through NumPy from forward")
        return _finding("The loss is cut off from the outputs of the model", error,
                        "Remove detach(), item(), argmax or torch.tensor(...) on the way from the outputs to the loss")
    if "scalar outputs" in text:
        return _finding("The loss is not one number", error, "Use reduction='mean', or take loss.mean()")
    if "second time" in text:
        return _finding("The graph is used a second time", error,
                        "Cut what is carried from one batch to the next with detach()")
    return _finding(f"The backward pass fails: {_first_line(error)}", error, _fitting(text, "the values"))


def _finding(title: str, error: Exception, remedy: str, layer: str | None = None) -> Finding:
    text = " ".join(str(error).split())
    return Finding(check=NAME, severity="error", title=title, evidence=f"{type(error).__name__}: {text[:300]}",
                   remedy=remedy, layer=layer or None)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _fitting(text: str, what: str) -> str:
    if "more than 1 value per channel" in text:
        return "Batch normalisation needs more than one value: a larger batch, drop_last=True, or GroupNorm"
    if "dtype" in text or "scalar type" in text or "same type" in text or "not implemented for" in text:
        return f"Make the types equal: {what} as float32 (.float()), numbers of classes as int64 (.long())"
    if "device" in text:
        return "Move model, inputs and targets to one device: .to(device)"
    if "shape" in text or "size" in text or "mat1" in text or "channels" in text:
        return f"Compare the shape of {what} with what the layer takes: [B, C, H, W] for images"
    if "out of bounds" in text or "out of range" in text:
        return "Compare the largest label with the number of outputs"
    return "Run model(inputs) and loss(outputs, targets) once by hand with this batch"


def _operation(text: str) -> str:
    """The operation whose output was changed: autograd names it ('output 0 of SigmoidBackward0')."""
    found = re.search(r"output \d+ of (\w+?)(?:Backward\d*)?,", text)
    return found.group(1) if found else ""


def _changed(patient: Patient) -> str | None:
    """The layer whose output, or input, was written to after it ran; the last such one in the forward pass."""
    kept: list[tuple[str, Tensor, int]] = []

    def keep(name: str) -> object:
        def hook(module: object, inputs: tuple[object, ...], output: object) -> None:
            kept.extend((name, value, value._version) for value in (*inputs, output)
                        if isinstance(value, Tensor) and value.grad_fn is not None)
        return hook

    handles = [module.register_forward_hook(keep(name))
               for name, module in patient.model.named_modules() if not any(True for _ in module.children()) and name]
    try:
        with untouched(patient.model), as_trained(patient.model), torch.enable_grad():
            outputs = patient.model(patient.first[0].clone())
        names = [name for name, value, version in kept if value._version != version]
        del outputs
    finally:
        for handle in handles:
            handle.remove()
    return names[-1] if names else None


def _twice(patient: Patient) -> Exception | None:
    """What a second batch raises when the first one's backward pass has freed its graph."""
    second = patient.batches[min(1, len(patient.batches) - 1)]
    with untouched(patient.model), as_trained(patient.model), torch.enable_grad():
        inputs, targets = patient.first
        outputs = patient.model(inputs.clone())
        if not _carries(patient):
            return None
        try:
            patient.loss(outputs, targets).backward()
            patient.loss(patient.model(second[0].clone()), second[1]).backward()
        except EXPECTED as error:
            return error if "second time" in str(error) else None
    return None


def _carries(patient: Patient) -> bool:
    """A module holds a tensor that belongs to a graph."""
    held = [value for module in patient.model.modules() for value in (*vars(module).values(),
                                                                      *module._buffers.values())]
    flat = [item for value in held for item in (value if isinstance(value, list | tuple) else [value])]
    return any(isinstance(item, Tensor) and item.grad_fn is not None for item in flat)


add(backward_fails, NAME, stage="before", rank=2,
    rule="Forward, loss and backward run through with the first batch and with the one after it",
    cost="the first pass, one forward pass; two passes more for a model that carries a state", course="18.13, C6.1")
