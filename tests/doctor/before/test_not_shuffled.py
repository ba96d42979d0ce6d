from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.not_shuffled import by_chance, not_shuffled
from visus.doctor.patient import Patient


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def found(targets: Tensor, batch: int, validation: Tensor | None = None, loss=F.cross_entropy) -> list:
    order = tuple(targets.split(batch))
    held = ((torch.zeros(len(validation), 5), validation),) if validation is not None else ()
    return list(not_shuffled(Patient(model=nn.Linear(5, 10), loss=loss, order=order[:50], validation=held,
                                     batches=((torch.zeros(len(order[0]), 5), order[0]),))))


def sorted_labels(count: int, classes: int) -> Tensor:
    return torch.arange(classes).repeat_interleave(count // classes)


@pytest.mark.parametrize("count, classes, batch", [(1600, 10, 32), (60, 3, 16), (200, 2, 8), (2000, 1000, 4)])
def test_sorted_sets_are_found_and_shuffled_ones_are_not(count: int, classes: int, batch: int):
    labels = sorted_labels(count, classes)
    (finding,) = found(labels, batch)
    assert finding.severity == "warning" and "shuffle=True" in finding.remedy and "1e-06" in finding.evidence
    for seed in range(10):
        assert found(labels[torch.randperm(len(labels), generator=drawn(seed))], batch) == []


def test_sets_that_are_balanced_in_each_batch_or_fill_one_say_nothing():
    assert found(torch.arange(10).repeat(20), 10) == []
    assert found(sorted_labels(60, 3), 60) == []
    assert found(torch.arange(10).repeat(4), 16) == []


def test_shuffled_within_a_buffer_too_small():
    labels = sorted_labels(1600, 10)
    near = (torch.arange(1600) + 100 * torch.rand(1600, generator=drawn())).argsort()
    assert len(found(labels[near], 32)) == 1


def test_the_beginning_of_a_large_sorted_set_is_of_one_class():
    zeros = torch.zeros(256, dtype=torch.int64)
    (finding,) = found(zeros, 32, validation=torch.arange(10))
    assert finding.severity == "warning" and "90%" in finding.evidence
    assert found(zeros, 32)[0].severity == "warning" and found(zeros[:128], 32)[0].severity == "note"


def test_several_labels_and_values():
    many = (torch.rand(320, 4, generator=drawn()) > 0.7).float()
    assert found(many, 16, loss=nn.BCEWithLogitsLoss()) == []
    assert found(many[many[:, 0].argsort()], 16, loss=nn.BCEWithLogitsLoss())[0].severity == "warning"
    assert found(torch.linspace(0, 1, 320), 16, loss=F.mse_loss)[0].severity == "note"
    assert found(torch.rand(320, generator=drawn()), 16, loss=F.mse_loss) == []


def test_chance_is_uniform_for_random_orders():
    labels, sizes = F.one_hot(sorted_labels(600, 5)).double(), torch.full((20,), 30)
    chances = torch.tensor([by_chance(labels[torch.randperm(600, generator=drawn(s))], sizes)[1] for s in range(40)])
    assert 0.35 < chances.mean() < 0.65 and (chances < 0.1).sum() < 12
