"""A model must beat the answer that always names the commonest class (for values: their mean), by three standard
deviations of a share counted on so many samples.

It says that nothing was learnt and not why: see shuffled-labels-control, input-independent-control, tiny-net-control.
A hard task may need more than the few hundred samples that a control trains on.

Source: reliability.md C1; Karpathy's recipe (dumb baselines).
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.controls import chance, constant_loss, learnt, majority, real_run, split
from visus.doctor.patient import Patient

NAME = "majority-control"


def majority_control(patient: Patient) -> Iterator[Finding]:
    parts = split(patient)
    if parts is None:
        return
    real = real_run(patient, parts)
    if learnt(patient, parts, real):
        return
    share, bound = majority(patient, parts), chance(patient, parts)
    if share is None or bound is None or real.right is None or real.train_right is None:
        yield _finding("The net is no better than the mean of the targets",
                       f"loss {real.held_loss:.4g} on held samples, the mean has {constant_loss(patient, parts):.4g}; "
                       f"{parts}", by_heart=False)
        return
    yield _finding("The net is no better than the commonest class",
                   f"{real.right:.1%} of the held samples are right, the commonest class has {share:.1%}, and "
                   f"{bound:.1%} would be more than chance; {real.train_right:.1%} of the training samples are right "
                   f"after {len(real.losses)} steps; {parts}", by_heart=real.train_right > bound)


def _finding(title: str, evidence: str, *, by_heart: bool) -> Finding:
    return Finding(
        check=NAME, severity="warning", title=title, evidence=evidence,
        remedy="It learns the training samples by heart: look whether the labels belong to the images, then at the "
               "amount of data" if by_heart else "It does not even learn the training samples: look at the findings "
               "about rate, gradient and loss")


add(majority_control, NAME, stage="deep", rank=9, symptom=True,
    rule="A short training beats the commonest class by three standard deviations; for values, the mean's loss by 5 %",
    cost="one run of up to 120 steps", course="18.01, C6.2")
