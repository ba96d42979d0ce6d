"""A net whose outputs are the same for different inputs has lost them on the way: a variable is not passed on, a part
is multiplied by 0, or the differences have shrunk to nothing.

A last layer that begins at 0 gives the same at the start and is healthy; so the outputs are asked again after the copy
has learnt a batch (overfit-batch). Both must be alike within 1e-4 of their size. Differences that fade from layer to
layer are another fault: activation-scale tells it.

Source: Karpathy's recipe (input-independent baseline), reliability.md section 4.4 C2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import fade, first_pass, inputs_say_nothing, lost_at
from visus.doctor.patient import Patient
from visus.doctor.short_run import overfit
from visus.doctor.thresholds import limit

NAME = "input-ignored"
STEPS = 5  # that must have been made before the outputs are asked again


def input_ignored(patient: Patient) -> Iterator[Finding]:
    seen = first_pass(patient)
    if seen.error is not None or seen.outputs is None or len(seen.outputs) < 2 or inputs_say_nothing(patient):
        return
    inputs = patient.first[0]
    if bool((inputs == inputs[:1]).all()) or alike(seen.outputs) > limit("input-ignored.alike"):
        return
    lost = lost_at(patient)
    if lost is None and fade(patient):
        return
    run = overfit(patient, own=False)
    if len(run.losses) <= STEPS or run.after is None or not bool(torch.isfinite(run.after).all()):
        return
    if bool((run.targets == run.targets[:1]).all()):
        return
    share = alike(run.after)
    if share > limit("input-ignored.alike"):
        return
    yield Finding(
        check=NAME, severity="error", title="The outputs are the same whatever the input is",
        evidence=f"their differences between samples are {alike(seen.outputs):.2g} of their size, and {share:.2g} "
                 f"after {len(run.losses) - 1} steps on a batch; at least {limit('input-ignored.alike'):g}"
                 + (f"; the first layer that gives the same for all samples is {lost}" if lost else ""),
        remedy="Follow x through forward: a result that is not passed on, a product with 0, a mean over the batch, a "
               "layer that gives a constant")


def alike(outputs: Tensor) -> float:
    """Standard deviation over the samples as a share of the outputs' size."""
    values = outputs.detach().double()
    size = float(values.square().mean().sqrt())
    return float(values.std(dim=0, correction=0).square().mean().sqrt()) / size if size > 0 else 0.0


add(input_ignored, NAME, stage="before", rank=2,
    rule="Outputs for different inputs differ by more than 1e-4 of their size, at the start or after learning a batch",
    cost="the first pass; the steps of overfit-batch where they are alike", course="18.01, C6.2")
