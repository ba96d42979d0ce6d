"""Every parameter that asks for a gradient must get one that is not exactly 0. One that gets none was cut off
(`detach`, `no_grad`, an argmax on the way) or is never used.

Not at the first step: behind a residual branch or a last layer that begins at 0 the gradient is exactly 0 there, and in
healthy nets. So five steps are made on a copy, and 0 counts when it is 0 in all of the later four. A bias counts only
with its weight: before normalisation its gradient is 0 but for rounding. Where the outputs do not depend on the input
that is the finding, and not this.

Source: CS231n notes 3; reliability.md R2 and finding 10 (a detached backbone still learns a batch by heart).
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before.input_ignored import input_ignored
from visus.doctor.first_pass import first_pass, inputs_say_nothing
from visus.doctor.patient import Patient
from visus.doctor.short_run import FirstSteps, first_steps
from visus.doctor.thresholds import limit

NAME = "gradient-path"


def gradient_path(patient: Patient) -> Iterator[Finding]:
    if first_pass(patient).error is not None or inputs_say_nothing(patient):
        return
    if next(input_ignored(patient), None) is not None:  # nothing before the loss of the input can have a gradient
        return
    steps = first_steps(patient)
    sizes = {name: p.numel() for name, p in patient.model.named_parameters() if p.requires_grad}
    if not any(steps.gradients.values()):
        return
    missing = [name for name, norms in steps.gradients.items() if all(norm is None for norm in norms)]
    cut = [name for name in missing if _owner(name) in steps.ran]
    unused = [name for name in missing if name not in cut]
    reached = [name for name, norms in steps.gradients.items() if any(norms)]
    if cut and any(len(name) for name in reached):
        after = _next(list(steps.gradients), cut[-1], reached)
        yield Finding(
            check=NAME, severity="error", layer=_owner(cut[-1]) or None,
            title=f"The gradient does not reach {_owner(cut[-1]) or cut[-1]}: the way back is cut behind it",
            evidence=f"{_listed(cut, sizes)} get no gradient although their layers run"
                     + (f"; {after} gets one" if after else ""),
            remedy=f"Look between {_owner(cut[-1]) or cut[-1]} and {_owner(after) if after else 'the loss'} for "
                   "detach(), torch.no_grad, .data, argmax or a way through NumPy; freeze on purpose with "
                   "requires_grad_(False)")
    if unused:
        share = sum(sizes[name] for name in unused) / max(1, sum(sizes.values()))
        yield Finding(
            check=NAME, severity="warning" if share > limit("gradient-path.unused") else "note",
            layer=_owner(unused[0]) or None,
            title=f"The forward pass does not use {_owner(unused[0]) or unused[0]}",
            evidence=f"{_listed(unused, sizes)}, {share:.1%} of the trainable numbers, are not part of the loss",
            remedy="Call the layer in forward, or remove it: its weights stay as they were drawn")
    zero = _zero(steps)
    if zero:
        yield Finding(
            check=NAME, severity="error", layer=_owner(zero[0]) or None,
            title=f"The gradient of {zero[0]} is exactly 0, and stays 0",
            evidence=f"{_listed(zero, sizes)} had 0 in each of the steps 2 to {len(steps.gradients[zero[0]])}",
            remedy="A layer behind it gives nothing (dead ReLU, a product with 0, all weights 0) or rounds its input: "
                   "look at its outputs")


def _zero(steps: FirstSteps) -> list[str]:
    """Parameters whose gradient is 0 in all later steps, without biases whose weight gets one."""
    zero = [name for name, norms in steps.gradients.items()
            if len(norms) > 1 and all(norm is not None for norm in norms[1:]) and not any(norms[1:])]
    alive = {_owner(name) for name, norms in steps.gradients.items() if any(norms) and name not in zero}
    return [name for name in zero if not (name.endswith("bias") and _owner(name) in alive)]


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _next(order: list[str], name: str, reached: list[str]) -> str | None:
    later = order[order.index(name) + 1:]
    return next((other for other in later if other in reached), None)


def _listed(names: list[str], sizes: dict[str, int]) -> str:
    shown = ", ".join(names[:3]) + (f", ... {names[-1]}" if len(names) > 3 else "")
    return f"{len(names)} of {len(sizes)} parameters ({shown})"


add(gradient_path, NAME, stage="before", rank=3,
    rule="Every trainable parameter gets a gradient that is not exactly 0 in steps 2 to 5 of a copy",
    cost="five passes of 8 samples, on a copy", course="18.09, C6.2")
