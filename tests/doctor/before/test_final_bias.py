from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.final_bias import final_bias
from visus.doctor.patient import Patient


def found(targets: Tensor, bias: Tensor | None = None, loss=F.cross_entropy) -> list:
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    with torch.no_grad():
        model.weight.mul_(0.1)
        model.bias.copy_(bias if bias is not None else torch.zeros(4))
    batch = (torch.randn(len(targets), 5), targets)
    return list(final_bias(Patient(model=model, loss=loss, batches=(batch,), order=(targets,))))


SKEWED = torch.tensor([0] * 90 + [1, 2, 3] * 4)


def test_a_frequent_class_without_its_bias_is_a_note_with_the_line():
    (finding,) = found(SKEWED)
    assert finding.severity == "note" and "88%" in finding.title and "torch.log" in finding.remedy


def test_the_bias_of_the_frequencies_and_balanced_sets_say_nothing():
    prior = torch.bincount(SKEWED) / len(SKEWED)
    assert found(SKEWED, prior.log()) == [] == found(torch.arange(4).repeat(10))
    assert found(torch.tensor([0] * 59 + [1, 2, 3] * 14)) == []  # a majority of 58 %


def test_rare_labels():
    rare = (torch.rand(400, 4, generator=torch.Generator().manual_seed(0)) < 0.01).float()
    (finding,) = found(rare, loss=nn.BCEWithLogitsLoss())
    assert "torch.logit" in finding.remedy
    assert found(rare, torch.full((4,), -4.6), nn.BCEWithLogitsLoss()) == []
    assert found(rare, loss=nn.MSELoss()) == []
