from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.softmax_twice import softmax_twice
from visus.doctor.patient import Patient

CLASSES = torch.tensor([0, 1, 2, 3] * 4)
MANY = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def found(model: nn.Module, loss, targets: Tensor) -> list:
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    return list(softmax_twice(Patient(model=model, loss=loss, batches=((inputs, targets),))))


class Functional(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.linear, self.last = nn.Linear(5, 4), last

    def forward(self, vectors: Tensor) -> Tensor:
        return self.last(self.linear(vectors))


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1),
                                  nn.CrossEntropyLoss(weight=torch.tensor([1., 2, 3, 4]), reduction="sum")])
def test_softmax_in_front_of_cross_entropy_names_the_layer_and_the_floor(loss):
    (finding,) = found(nn.Sequential(nn.Linear(5, 4), nn.Softmax(dim=1)), loss, CLASSES)
    assert finding.severity == "error" and finding.layer == "1" and "0.744" in finding.evidence


def test_softmax_as_a_function():
    (finding,) = found(Functional(lambda x: x.softmax(dim=1)), F.cross_entropy, CLASSES)
    assert "Softmax twice" in finding.title and finding.layer is None


def test_sigmoid_in_front_of_bce_with_logits():
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0] * 4))
    (module,) = found(nn.Sequential(nn.Linear(5, 4), nn.Sigmoid()), nn.BCEWithLogitsLoss(), MANY)
    (function,) = found(Functional(torch.sigmoid), weighted, MANY)
    assert module.layer == "1" and function.layer is None and "Sigmoid twice" in function.title


def test_logits_and_losses_of_probabilities_say_nothing():
    assert found(nn.Linear(5, 4), F.cross_entropy, CLASSES) == []
    assert found(nn.Linear(5, 4), nn.BCEWithLogitsLoss(), MANY) == []
    assert found(nn.Sequential(nn.Linear(5, 4), nn.Sigmoid()), nn.BCELoss(), MANY) == []
    assert found(nn.Sequential(nn.Linear(5, 4), nn.Sigmoid()), nn.MSELoss(), MANY) == []
    assert found(nn.Sequential(nn.Linear(5, 4), nn.LogSoftmax(dim=1)), nn.NLLLoss(), CLASSES) == []
    log_of_probs = lambda outputs, targets: F.nll_loss(outputs.log(), targets)  # noqa: E731
    assert found(nn.Sequential(nn.Linear(5, 4), nn.Softmax(dim=1)), log_of_probs, CLASSES) == []


def test_probabilities_where_the_loss_takes_their_logarithms():
    (finding,) = found(nn.Sequential(nn.Linear(5, 4), nn.Softmax(dim=1)), nn.NLLLoss(), CLASSES)
    assert finding.severity == "error" and "logarithms" in finding.title and "LogSoftmax" in finding.remedy
