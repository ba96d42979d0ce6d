"""A net that cannot learn sixteen samples by heart has a fault between inputs and weights: in the loss, the labels, the
gradient, the rate. A copy trains on one small batch, without dropout, augmentation and decay, with the person's own
optimizer at its peak rate.

It says that something is wrong and not what, so it stands behind every finding that names a cause. Where the own
optimizer fails and AdamW with rate 1e-3 does it, the net is sound and the rate is not. Time that runs out,
samples with fewer numbers than there are samples, and a net without room for them tell nothing.

Source: Karpathy's recipe, CS231n notes 3, EECS498 lecture 11 (overfit a small sample); reliability.md D6: seven nets
were below 0.01 in 4 to 51 steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import first_pass
from visus.doctor.patient import Patient
from visus.doctor.short_run import Overfit, overfit
from visus.doctor.thresholds import limit

NAME = "overfit-batch"


def overfit_batch(patient: Patient) -> Iterator[Finding]:
    if first_pass(patient).error is not None:
        return
    own = overfit(patient)
    if own.reached or (own.cut_off and not own.climbed):
        return
    other = overfit(patient, own=False) if patient.optimizer is not None else own
    if other is not own and other.sound:
        if own.progress > limit("overfit-batch.stuck") and not own.climbed:
            return
        if not own.climbed and own.progress > limit("overfit-batch.started"):
            severity, verb = "note", "hardly learns"
        else:
            severity, verb = "warning", "does not learn"
        yield Finding(
            check=NAME, severity=severity,  # type: ignore[arg-type]
            title=f"{own.name} with rate {own.rate:g} {verb} {own.samples} samples by heart; AdamW with rate "
                  f"{other.rate:g} does",
            evidence=f"{_told(own)}; {_told(other)}",
            remedy=f"The net and the loss are sound: choose another rate than {own.rate:g}, or AdamW to begin with")
        return
    if other.cut_off or max(own.progress, other.progress) >= limit("overfit-batch.stuck"):
        return
    yield Finding(
        check=NAME, severity="error" if _has_room(patient, own) else "note",
        title=f"The net does not learn {own.samples} samples by heart",
        evidence=_told(own) + ("" if other is own else f"; {_told(other)}"),
        remedy="Look at these samples and their labels, at what the outputs mean to the loss, and at the gradient of "
               "each layer, in this order")


def _told(run: Overfit) -> str:
    floor = f", of which {run.floor:.3g} remain for right answers" if run.floor > 0.01 else ""
    return (f"{run.name}: loss {run.losses[0]:.4g} -> {min(run.losses):.4g} in {len(run.losses) - 1} steps{floor}; "
            f"below {max(limit('overfit-batch.loss'), limit('overfit-batch.share') * (run.losses[0] - run.floor)):.3g} "
            "is learnt")


def _has_room(patient: Patient, run: Overfit) -> bool:
    """Enough numbers in a sample, and weights in the net, to tell the samples apart."""
    inputs = patient.first[0]
    weights = sum(p.numel() for p in patient.model.parameters() if p.requires_grad)
    return inputs[0].numel() >= run.samples and weights >= 4 * run.samples


add(overfit_batch, NAME, stage="before", rank=9, symptom=True,
    rule="A copy learns 16 samples to a loss of 0.05 (or a twentieth of the first) within 200 steps",
    cost="up to 200 steps of 16 samples, at most 6 s; twice that where it fails", course="18.02, C2.6, C2.9, C6.2")
