"""Units that begin with the same weights compute the same and get the same gradient: they stay one unit for ever. With
all weights 0 nothing but the last bias learns.

Zeros alone are no fault: the last layer of a net, or of a residual branch, may begin at 0, since its units hear
different gradients. So the rule asks twice: all rows of a weight are equal at the start, and still after five steps of
a copy.

Source: CS231n notes 2 (pitfall: all zero initialization); reliability.md section 4.6.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import first_pass
from visus.doctor.patient import Patient
from visus.doctor.short_run import first_steps, rows_alike

NAME = "symmetric-weights"


def symmetric_weights(patient: Patient) -> Iterator[Finding]:
    if first_pass(patient).error is not None:
        return
    if not any(rows_alike(p) for p in patient.model.parameters() if p.requires_grad):
        return
    alike = first_steps(patient).alike
    if not alike:
        return
    shapes = {name: tuple(p.shape) for name, p in patient.model.named_parameters()}
    first = next(iter(alike))
    zeros = [name for name, size in alike.items() if size == 0]
    what = "zero" if first in zeros else "the same for every unit"
    yield Finding(
        check=NAME, severity="error", layer=first.rpartition(".")[0] or None,
        title=f"The weights {first} are {what}, and stay the same for every unit",
        evidence=f"{len(alike)} of {sum(len(s) > 1 for s in shapes.values())} weight tensors have equal rows before "
                 f"and after 5 steps: " + ", ".join(f"{name} {list(shapes[name])}" for name in list(alike)[:4]),
        remedy="Draw them at random: nn.init.kaiming_normal_(layer.weight, nonlinearity='relu'), or leave the layer as "
               "torch made it; only biases begin at 0")


add(symmetric_weights, NAME, stage="before", rank=1,
    rule="The units of a layer do not all have the same weights, at the start and after 5 steps of a copy",
    cost="nothing; five passes of 8 samples where rows are equal at the start", course="18.23, C2.6")
