from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.small_batch_norm import small_batch_norm
from visus.doctor.patient import Patient


def net(norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm or nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))


def found(sizes: list[int], model: nn.Module | None = None) -> list:
    torch.manual_seed(0)
    order = tuple(torch.zeros(size, dtype=torch.int64) for size in sizes)
    batch = (torch.randn(sizes[0], 3, 8, 8), order[0])
    return list(small_batch_norm(Patient(model=model or net(), loss=F.cross_entropy, batches=(batch,), order=order)))


@pytest.mark.parametrize("size, severity", [(1, "error"), (2, "warning"), (3, "warning"), (4, "note"), (7, "note")])
def test_the_bounds_of_the_batch(size: int, severity: str):
    (finding,) = found([size] * 5)
    assert finding.severity == severity and finding.layer == "1" and "36 values" in finding.evidence


def test_eight_samples_and_other_norms_say_nothing():
    assert found([8] * 5) == found([2] * 5, net(nn.GroupNorm(2, 4))) == found([32, 32, 7]) == []


def test_a_last_batch_of_one_is_refused_or_not_measured():
    (finding,) = found([32, 32, 1])
    assert finding.severity == "warning" and "drop_last" in finding.remedy and "1 of 3 batches" in finding.evidence
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    (finding,) = found([32, 32, 1], flat)
    assert finding.severity == "error" and "refuses" in finding.title


def test_norms_that_stay_in_eval_mode_are_left_out():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True):
            return super().train(False)

    assert found([2] * 5, net(Frozen(4))) == []
