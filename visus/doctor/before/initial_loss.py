"""A fresh net knows nothing, so its loss is that of a guess: ln C for cross-entropy over C classes, C - 1 for the
hinge, ln 2 for each label, the variance of the targets for squared error.

No table of losses is needed: the loss function itself is asked at indifferent outputs, so weights of classes, label
smoothing, a focal exponent or a person's own formula are in the reference. Twice it is too high: the net is sure of
wrong answers (last layer drawn too large, inputs without scale). Half of it is too low, unless the final bias holds the
shares of unequal classes, which the lower reference allows. A loss that is lower for wrong answers than for right ones
has its sign turned. Of weights that are not fresh only a head that is worse than a guess is told.

Source: CS231n notes 3 (sanity checks), assignment 1 (softmax: -log 0.1); reliability.md D2 (0.99 to 1.47 for healthy
nets).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.answers import Answers
from visus.doctor.first_pass import as_trained
from visus.doctor.patient import Patient, untouched
from visus.doctor.thresholds import limit

NAME = "initial-loss"
SAMPLES = 128


def initial_loss(patient: Patient) -> Iterator[Finding]:
    got = _outputs(patient)
    if got is None:
        return
    outputs, targets = got
    answers = Answers(patient.loss, outputs, targets)
    loss, guess = answers.at(outputs), answers.at(answers.indifferent())
    if loss is None or guess is None or not math.isfinite(loss) or not math.isfinite(guess):
        return
    best = answers.at(answers.right())
    if best is not None and best > guess + 1e-6 * abs(guess):
        yield Finding(
            check=NAME, severity="error", title="The loss is lower for wrong answers than for right ones",
            evidence=f"asked at outputs that are right: {best:.4g}; at outputs that say nothing: {guess:.4g}",
            remedy="Turn the sign of the loss, or the order of its arguments: loss(outputs, targets)")
        return
    if guess <= 0:
        return
    if answers.kind == "values":
        yield from _of_values(patient, answers, loss, guess)
        return
    known = answers.at(answers.by_prior())
    lower = guess if known is None or not 0 < known < guess else known
    form = _closed_form(answers, guess)
    measured = f"{loss:.4g} on {len(targets)} samples; a guess has {guess:.4g}{form}"
    if loss > limit("initial-loss.high") * guess:
        spread = float(outputs.double().std())
        yield Finding(
            check=NAME, severity="warning" if patient.pretrained else "error",
            title=f"The initial loss is {loss / guess:.3g} times that of a guess",
            evidence=f"{measured}; at most {limit('initial-loss.high'):g} times; the outputs have a standard deviation "
                     f"of {spread:.3g}",
            remedy="The weights answer other labels than these: compare the order of the classes, or draw the last "
                   "layer anew" if patient.pretrained else
                   "Draw the weights smaller (nn.init.kaiming_normal_, the last layer with std 0.01), and scale the "
                   "inputs to mean 0 and standard deviation 1")
    elif patient.pretrained:
        return
    elif loss < limit("initial-loss.low") * lower:
        yield Finding(
            check=NAME, severity="error",
            title=f"The initial loss is {loss / lower:.3g} times that of the best guess: fresh weights "
                  "cannot know this",
            evidence=f"{measured}, and one that knows how often each class occurs {lower:.4g}; at least "
                     f"{limit('initial-loss.low'):g} times",
            remedy="See whether the targets are in the inputs, whether weights were loaded (then say pretrained=True), "
                   "and what the loss divides by")
    elif not limit("initial-loss.note-low") * lower <= loss <= limit("initial-loss.note-high") * guess:
        yield Finding(
            check=NAME, severity="note", title=f"The initial loss is {loss / guess:.3g} times that of a guess",
            evidence=measured, remedy="A last layer drawn with std 0.01 begins at the guess and saves the first steps")


def _of_values(patient: Patient, answers: Answers, loss: float, guess: float) -> Iterator[Finding]:
    targets, zeros = answers.targets, answers.at(torch.zeros_like(answers.outputs))
    if patient.pretrained or zeros is None or not math.isfinite(zeros):
        return
    variance = float(targets.double().var(dim=0, correction=0).mean())
    form = " = variance of the targets" if variance and abs(guess / variance - 1) < 1e-3 else ""
    measured = f"{loss:.4g} on {len(targets)} samples; the mean of the targets as the answer has {guess:.4g}{form}"
    if loss > limit("initial-loss.values") * max(guess, zeros):
        yield Finding(
            check=NAME, severity="error",
            title=f"The initial loss is {loss / max(guess, zeros):.3g} times that of a constant answer",
            evidence=f"{measured}, 0 has {zeros:.4g}; at most {limit('initial-loss.values'):g} times the larger",
            remedy="Draw the weights smaller (nn.init.kaiming_normal_), and scale the inputs to mean 0 and standard "
                   "deviation 1")
    elif zeros > limit("initial-loss.offset") * guess:
        yield Finding(
            check=NAME, severity="note",
            title="The targets lie far from 0, where a fresh net begins",
            evidence=f"{measured}, 0 has {zeros:.4g}: {zeros / guess:.3g} times as much; noted above "
                     f"{limit('initial-loss.offset'):g}",
            remedy="Train on (targets - mean) / std, or set the bias of the last layer to the mean of the targets")


def _closed_form(answers: Answers, guess: float) -> str:
    """The textbook's name of the number, where it is that number."""
    forms = [("ln 2", math.log(2.0))]
    if answers.kind == "classes":
        count = answers.outputs.shape[1]
        forms = [(f"ln {count}", math.log(count)), (f"{count} - 1", count - 1.0)]
    return next((f" = {name}" for name, value in forms if abs(guess - value) < 1e-4 * value), "")


def _outputs(patient: Patient) -> tuple[Tensor, Tensor] | None:
    """Outputs of at least SAMPLES samples, batch by batch, as training computes them, without dropout."""
    found, answers = [], []
    with untouched(patient.model), as_trained(patient.model), torch.no_grad():
        for inputs, targets in patient.batches:
            outputs = patient.model(inputs.clone())
            if not isinstance(outputs, Tensor):
                return None
            found.append(outputs)
            answers.append(targets)
            if sum(map(len, found)) >= SAMPLES:
                break
    return torch.cat(found), torch.cat(answers)


add(initial_loss, NAME, stage="before", rank=5,
    rule="Fresh weights have the loss of a guess: between 0.5 times that of the best constant answer and 2 times that "
         "of an indifferent one",
    cost="forward passes of 128 samples", course="18.01, C2.3, C6.2")
