"""Short trainings of copies, for the controls: on the held batches, judged on the validation batches.

They are small: some hundred samples and at most the steps of the table. A difference that they show is there; one that
they do not show may need more data. Every control says with how many samples it spoke.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus.doctor.patient import Batch, Patient
from visus.doctor.short_run import step_on
from visus.doctor.thresholds import limit

LOOKS = 6  # at the validation samples during a run


@dataclass(frozen=True, kw_only=True)
class Split:
    """Samples to train on and samples to judge by. own: the latter are the person's validation, not a quarter of the
    training samples."""

    train: Batch
    held: Batch
    own: bool

    def __str__(self) -> str:
        where = "of validation" if self.own else "held back from training"
        return f"{len(self.train[1])} samples trained on, {len(self.held[1])} {where}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """losses: of training, step by step. held_loss: the smallest of the looks. right: share of right answers at the
    last look, and `train_right` on the training samples; None for targets that are values."""

    losses: tuple[float, ...]
    held_loss: float
    right: float | None
    train_right: float | None
    seconds: float

    @property
    def mean_loss(self) -> float:
        """Over the whole run: small where learning was fast."""
        return sum(self.losses) / len(self.losses)


def split(patient: Patient) -> Split | None:
    """None where there are fewer than 16 samples on a side."""
    known = patient.remembered.get("controls-split")
    if known is None:
        inputs, targets = patient.pooled(sum(len(batch[0]) for batch in patient.batches))
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).to(inputs.device)
        if patient.validation:
            held = torch.cat([x for x, _ in patient.validation]), torch.cat([y for _, y in patient.validation])
            known = Split(train=(inputs[order], targets[order]), held=held, own=True)
        else:
            cut = len(inputs) - len(inputs) // 4
            known = Split(train=(inputs[order[:cut]], targets[order[:cut]]),
                          held=(inputs[order[cut:]], targets[order[cut:]]), own=False)
        patient.remembered["controls-split"] = known
    return known if min(len(known.train[1]), len(known.held[1])) >= 16 else None


def real_run(patient: Patient, parts: Split) -> Run:
    """The training as it is, short: made once."""
    known = patient.remembered.get("controls-real")
    if known is None:
        known = patient.remembered["controls-real"] = run(patient, parts.train, parts.held)
    return known


def run(patient: Patient, train: Batch, held: Batch, *, seed: int = 0, redraw: bool = False) -> Run:
    """Trains a copy with the person's optimizer at its peak rate (AdamW at 1e-3 without one), in batches of their size.
    redraw: the entries of each fresh weight are put in another order first: another draw of the same distribution."""
    cuda = [p.device.index or 0 for p in patient.model.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        torch.manual_seed(seed)
        model, optimizer = patient.copy()
        if redraw:
            _redraw(model)
        if optimizer is None:
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        return _run(patient, model, optimizer, train, held)


def _run(patient: Patient, model: nn.Module, optimizer: torch.optim.Optimizer, train: Batch, held: Batch) -> Run:
    if not any(m.training for m in model.modules() if any(True for _ in m.parameters(recurse=False))):
        model.train()
    size = min(len(patient.first[0]), len(train[0]))
    most, start = int(limit("controls.steps")), time.perf_counter()
    losses: list[float] = []
    held_loss, order = math.inf, torch.empty(0, dtype=torch.int64)
    for step in range(most):
        if len(order) < size:
            order = torch.randperm(len(train[0])).to(train[0].device)
        part, order = order[:size], order[size:]
        losses.append(step_on(model, optimizer, patient, (train[0][part], train[1][part]))[1])
        over = not math.isfinite(losses[-1]) or time.perf_counter() - start > limit("controls.seconds")
        if over or (step + 1) % max(1, most // LOOKS) == 0:
            value = _judged(patient, model, held, size)[0]
            held_loss = min(held_loss, value) if math.isfinite(value) else held_loss
        if over:
            break
    right = _judged(patient, model, held, size)[1]
    return Run(losses=tuple(losses), held_loss=held_loss, right=right,
               train_right=_judged(patient, model, train, size)[1], seconds=time.perf_counter() - start)


@torch.no_grad()
def _judged(patient: Patient, model: nn.Module, batch: Batch, size: int) -> tuple[float, float | None]:
    """(loss, share of right answers) in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    outputs = [model(part.clone()) for part in batch[0].split(max(size, 1))]
    for module, training in modes:
        module.training = training
    if not all(isinstance(part, Tensor) for part in outputs):
        return math.nan, None
    joined = torch.cat(outputs)
    return float(patient.loss(joined, batch[1])), share_right(patient, joined, batch[1])


def share_right(patient: Patient, outputs: Tensor, targets: Tensor) -> float | None:
    """Of the classes, or of all labels; None for values."""
    if patient.kind == "classes" and outputs.ndim == 2 and outputs.shape[1] > 1:
        return float((outputs.argmax(1) == targets).float().mean())
    if patient.kind == "labels" and outputs.shape == targets.shape:
        return float(((outputs > 0) == (targets > 0.5)).float().mean())
    return None


def majority(patient: Patient, parts: Split) -> float | None:
    """Share of right answers on the held samples of one that gives the commonest class (label by label) of training."""
    targets, held = parts.train[1], parts.held[1]
    if patient.kind == "classes":
        return float((held == targets.mode().values).float().mean())
    if patient.kind == "labels":
        return float((held.round() == targets.float().mean(0).round()).float().mean())
    return None


def constant_loss(patient: Patient, parts: Split) -> float:
    """Loss on the held samples of an answer that is the mean of the training targets (for values)."""
    mean = parts.train[1].float().mean(0, keepdim=True).expand_as(parts.held[1])
    with torch.no_grad():
        return float(patient.loss(mean, parts.held[1]))


def sigma(share: float, count: int) -> float:
    """Standard deviation of a share of right answers over `count` samples."""
    return math.sqrt(max(share * (1 - share), 0.0) / count)


def chance(patient: Patient, parts: Split, count: int | None = None) -> float | None:
    """What the commonest class and three standard deviations over `count` held samples (all of them) make."""
    share = majority(patient, parts)
    if share is None:
        return None
    held = len(parts.held[1])
    return share + limit("controls.sigmas") * sigma(max(share, 1 / held), count or held)


def learnt(patient: Patient, parts: Split, real: Run) -> bool:
    """The run is better on held samples than an answer that does not look at the input."""
    bound = chance(patient, parts)
    if bound is None or real.right is None:
        return patient.kind != "values" or real.held_loss <= limit("controls.values") * constant_loss(patient, parts)
    return real.right > bound or bound >= 1


@torch.no_grad()
def _redraw(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter.requires_grad:
            flat = parameter.flatten()
            parameter.copy_(flat[torch.randperm(flat.numel()).to(flat.device)].view_as(parameter))
