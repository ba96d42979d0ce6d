from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.loss_reduction import loss_reduction
from visus.doctor.patient import Patient

CLASSES = torch.tensor([0, 1, 2, 3] * 4)
MANY = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def found(loss, targets: Tensor = CLASSES, model: nn.Module | None = None) -> list:
    torch.manual_seed(0)
    batch = (torch.randn(16, 5), targets)
    return list(loss_reduction(Patient(model=model or nn.Linear(5, 4), loss=loss, batches=(batch,))))


@pytest.mark.parametrize("loss, targets", [
    (F.cross_entropy, CLASSES), (nn.CrossEntropyLoss(weight=torch.tensor([1., 2, 3, 4])), CLASSES),
    (nn.MultiMarginLoss(), CLASSES), (nn.BCEWithLogitsLoss(), MANY), (nn.MSELoss(), MANY * 3),
    (lambda o, t: F.binary_cross_entropy_with_logits(o, t, reduction="none").sum(1).mean(), MANY)])
def test_means_say_nothing(loss, targets):
    assert found(loss, targets) == []


def test_a_sum_tells_the_loss_of_one_sample():
    (finding,) = found(nn.CrossEntropyLoss(reduction="sum"))
    assert finding.severity == "error" and "sum" in finding.title and "2.000 times" in finding.evidence
    assert found(nn.MSELoss(reduction="sum"), MANY * 3)[0].severity == "warning"


def test_divided_twice():
    (finding,) = found(lambda o, t: F.cross_entropy(o, t) / len(t))
    assert "twice" in finding.title and "0.500 times" in finding.evidence


def test_a_number_a_sample_and_a_loss_without_gradient():
    (finding,) = found(nn.CrossEntropyLoss(reduction="none"))
    assert "16 numbers" in finding.title and "mean" in finding.remedy
    (finding,) = found(lambda o, t: F.cross_entropy(o, t).item())
    assert "float" in finding.title


def test_outputs_of_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, vectors: Tensor) -> dict:
            return {"logits": self.linear(vectors), "scale": 1.0}

    assert found(lambda o, t: F.cross_entropy(o["logits"], t), model=Two()) == []
    assert len(found(lambda o, t: F.cross_entropy(o["logits"], t, reduction="sum"), model=Two())) == 1
