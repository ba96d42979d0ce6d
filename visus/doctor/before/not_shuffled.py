"""Batches are drawn from all of the training set, not read off in its order.

With sorted data each batch is of one class, the net forgets the others, and the loss swings with the order of the
files. Measured: how far the batches' mean targets lie apart (classes as one column each), against the same targets in
random orders; 1 is what chance gives, and sets that are balanced in each batch give less. The order inside a batch does
not matter and is not looked at. reliability.md D9, with the chi-square of labels against batches put into this form,
which holds for few samples of many classes too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.before._answer import answer, frozen_noise
from visus.doctor.patient import Patient
from visus.doctor.thresholds import limit

ORDERS = 100  # random orders that chance is measured with


def columns(targets: Tensor, classes: bool) -> Tensor:
    """[N] or [N, K] -> [N, K]: a column of 0 and 1 for each class that occurs; of values, each of deviation 1."""
    if classes:
        present, index = targets.unique(return_inverse=True)
        return torch.nn.functional.one_hot(index, len(present)).double()
    values = targets.reshape(len(targets), -1).double()
    spread = values.std(dim=0)
    return (values[:, spread > 0] - values[:, spread > 0].mean(dim=0)) / spread[spread > 0]


def apart(table: Tensor, sizes: Tensor) -> float:
    """Squared distance of the batches' means from the mean of all, weighted by their sizes [B]."""
    batch = torch.arange(len(sizes)).repeat_interleave(sizes)  # [N]
    sums = torch.zeros(len(sizes), table.shape[1], dtype=table.dtype).index_add_(0, batch, table)
    off = sums / sizes[:, None] - table.mean(dim=0)
    return float((sizes[:, None] * off ** 2).sum())


def by_chance(table: Tensor, sizes: Tensor) -> tuple[float, float]:
    """How far apart the batches are, 1 as in a random order; and the probability of that much or more. Chance is a
    scaled chi-square with the mean and the variance of random orders (Box 1954)."""
    noise = frozen_noise()
    drawn = torch.tensor([apart(table[torch.randperm(len(table), generator=noise)], sizes) for _ in range(ORDERS)])
    mean, variance, seen = float(drawn.mean()), float(drawn.var()), apart(table, sizes)
    if mean <= 0 or variance <= 0:
        return 1.0, 1.0
    half = torch.tensor(mean * mean / variance, dtype=torch.float64)  # half the degrees of freedom
    return seen / mean, float(torch.special.gammaincc(half, half * seen / mean))


def not_shuffled(patient: Patient) -> Iterator[Finding]:
    """The targets of up to 50 batches in their order."""
    order = [t for t in patient.order if t.ndim and len(t)]
    if len(order) < 2 or order[0].ndim > 2 or not all(t.shape[1:] == order[0].shape[1:] for t in order):
        return
    joined, sizes = torch.cat(order), torch.tensor([len(t) for t in order])
    classes = not joined.is_floating_point() and (joined.ndim == 1 or joined.shape[1] == 1)
    if not classes and not joined.is_floating_point() and patient.kind != "labels":
        return  # words
    remedy = "DataLoader(..., shuffle=True) for training"
    if classes and len(joined.unique()) == 1:
        yield from of_one_class(patient, joined.flatten(), len(order), remedy)
        return
    table = columns(joined.flatten() if classes else joined, classes)
    if table.shape[1] > limit("not-shuffled.columns"):
        table = table[:, torch.randperm(table.shape[1], generator=frozen_noise())[:int(limit("not-shuffled.columns"))]]
    if not table.shape[1]:
        return
    ratio, chance = by_chance(table, sizes)
    if ratio > limit("not-shuffled.ratio") and chance < limit("not-shuffled.chance"):
        values = patient.kind == "values" and not classes
        first = ", ".join(f"{v:g}" for v in joined.reshape(len(joined), -1)[:, 0][:12].tolist())
        yield Finding(check="not-shuffled", severity="note" if values else "warning", remedy=remedy,
                      title=f"The training set is not shuffled: batches differ {ratio:.1f} times as much as by chance",
                      evidence=f"targets of {len(order)} batches, {len(joined)} samples; such an order has probability "
                               f"{chance:.1g} (bound {limit('not-shuffled.chance'):g}); the first are {first}")


def of_one_class(patient: Patient, labels: Tensor, batches: int, remedy: str) -> Iterator[Finding]:
    """All labels are equal: the beginning of a sorted set, or a set of one class."""
    outputs = answer(patient).tensor
    several = outputs is not None and outputs.ndim >= 2 and outputs.shape[1] > 2
    others = [t.cpu().flatten() for _, t in patient.validation if not t.is_floating_point()]
    elsewhere = float((torch.cat(others) != labels[0]).double().mean()) if others else 0.0
    sure = (1 - elsewhere) ** len(labels) < limit("not-shuffled.chance") if elsewhere else (
        several and len(labels) >= limit("not-shuffled.one-class"))
    yield Finding(check="not-shuffled", severity="warning" if sure else "note", remedy=remedy,
                  title=f"The first {len(labels)} targets of training are all {int(labels[0])}",
                  evidence=f"{batches} batches" + (
                      f"; of the validation targets {elsewhere:.0%} are others" if others else ""))


add(not_shuffled, "not-shuffled", stage="before", rank=2,
    rule="The means of the batches' targets lie at most 1.5 times as far apart as in random orders, or that has a "
         "probability above 1e-6.",
    cost="none: reads the targets of 50 batches", course="C6.2; CS231n notes 3")
