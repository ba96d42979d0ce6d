"""The answer for one sample does not depend on the others in its batch.

A `view` in place of a `transpose`, a softmax over axis 0, an LSTM that takes the batch for time: the net trains, and
answers differently in other company. In eval mode the gradient of output i with respect to input j is 0, exactly
(Karpathy's recipe, "use backprop to chart dependencies"). Inputs that have no gradient (words) are exchanged instead.
reliability.md D8.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import frozen_noise
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

SAMPLES = 4


def rows(model: nn.Module, inputs: Tensor) -> Tensor | None:
    """Outputs [B, everything]; None where they are no tensor with a row a sample."""
    outputs = model(inputs)
    known = isinstance(outputs, Tensor) and outputs.is_floating_point() and outputs.ndim
    return outputs.flatten(1) if known and outputs.ndim > 1 and len(outputs) == len(inputs) else (
        outputs[:, None] if known and len(outputs) == len(inputs) else None)


def felt(model: nn.Module, inputs: Tensor) -> Tensor | None:
    """[B, B]: how much output i changes with input j, as a share of the largest. By the gradient of a random sum of
    the outputs (a plain sum of probabilities is always 1), or by exchanging one input for its neighbour."""
    count = len(inputs)
    table = torch.zeros(count, count)
    if inputs.is_floating_point():
        fed = inputs.detach().clone().requires_grad_()
        with torch.enable_grad():
            outputs = rows(model, fed)
            if outputs is None or not outputs.requires_grad:
                return None
            mixed = (outputs * torch.randn(outputs.shape, generator=frozen_noise()).to(outputs)).sum(dim=1)
            for i in range(count):
                (gradient,) = torch.autograd.grad(mixed[i], fed, retain_graph=True, allow_unused=True)
                if gradient is not None:
                    table[i] = gradient.flatten(1).abs().amax(dim=1).cpu()
    else:
        with torch.no_grad():
            before = rows(model, inputs)
            if before is None:
                return None
            for j in range(count):
                changed = inputs.clone()
                changed[j] = inputs[(j + 1) % count]
                after = rows(model, changed)
                assert after is not None
                table[:, j] = (after - before).abs().amax(dim=1).cpu()
    return table / table.max() if float(table.max()) > 0 else None


def first_mixed(model: nn.Module, inputs: Tensor) -> str | None:
    """The first leaf whose output changes for other samples when only sample 1 does."""
    seen: list[list[tuple[str, Tensor]]] = []
    hooks = []

    def note(name: str, given_back: object) -> None:
        if isinstance(given_back, tuple) and given_back:
            given_back = given_back[0]
        if isinstance(given_back, Tensor) and given_back.ndim and len(given_back) == len(inputs):
            seen[-1].append((name, torch.cat([given_back[:1], given_back[2:]]).detach()))

    for name, module in model.named_modules():
        if name and not list(module.children()):
            hooks.append(module.register_forward_hook(lambda m, i, given_back, name=name: note(name, given_back)))
    changed = inputs.clone()
    changed[1] = inputs[2 % len(inputs)]
    try:
        with torch.no_grad():
            for batch in (inputs, changed):
                seen.append([])
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for (name, before), (_, after) in zip(*seen, strict=False):
        if before.shape == after.shape and float((before.double() - after.double()).abs().max()) > limit(
                "batch-independence.share") * max(1e-12, float(before.abs().max())):
            return name
    return None


def batch_independence(patient: Patient) -> Iterator[Finding]:
    """Four samples, in eval mode."""
    inputs = patient.pooled(SAMPLES)[0][:SAMPLES]
    if len(inputs) < 2 or bool((inputs[0] == inputs[1:]).all()):
        return
    patient.model.eval()
    table = felt(patient.model, inputs)
    if table is None or not bool(torch.isfinite(table).all()):
        return
    across = float((table - table.diag().diag()).max())
    if across <= limit("batch-independence.share"):
        return
    layer = first_mixed(patient.model, inputs)
    module = patient.model.get_submodule(layer) if layer else None
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        remedy = f"nn.{type(module).__name__}(..., batch_first=True): it takes [time, batch, features] without"
    else:
        remedy = "Look at each view, reshape, permute, softmax(dim) and mean(dim) " + (
            f"in front of and in {layer}" if layer else "of forward") + ": axis 0 is the batch"
    yield Finding(check="batch-independence", severity="error", layer=layer, remedy=remedy,
                  title="The samples of a batch are mixed: one's output depends on another's input" + (
                      f", first seen at {layer}" if layer else ""),
                  evidence=f"in eval mode the influence of another sample is {across:.2g} of the largest (bound "
                           f"{limit('batch-independence.share'):g})")


add(batch_independence, "batch-independence", stage="before", rank=1,
    rule="In eval mode the gradient of an output with respect to another sample's input is below 1e-6 of the largest.",
    cost="one forward and four backward passes of 4 samples", course="C6.1, C6.2")
