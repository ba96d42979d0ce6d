from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.clipped_output import clipped_output
from visus.doctor.patient import Patient

CLASSES = torch.tensor([0, 1, 2, 3] * 4)
MANY = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def found(last, loss=F.cross_entropy, targets: Tensor = CLASSES, frozen: bool = False) -> list:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 4)
            self.last = last

        def forward(self, vectors: Tensor) -> Tensor:
            return self.last(self.linear(vectors))

    torch.manual_seed(0)
    inputs = torch.randn(16, 5)
    model = Net().requires_grad_(not frozen)
    return list(clipped_output(Patient(model=model, loss=loss, batches=((inputs, targets),))))


@pytest.mark.parametrize("last, layer", [(nn.ReLU(), "last"), (torch.relu, None)])
def test_a_last_relu_by_module_and_by_function(last, layer):
    (finding,) = found(last)
    assert finding.severity == "error" and finding.layer == layer and "exactly 0" in finding.evidence
    assert len(found(last, frozen=True)) == 1


def test_tanh_and_sigmoid_name_the_least_loss():
    assert "below 0.341" in found(nn.Tanh())[0].evidence  # ln(1 + 3 e^-2)
    assert "below 0.744" in found(nn.Sigmoid())[0].evidence  # ln(1 + 3 e^-1)
    assert "6 apart" in found(nn.ReLU6())[0].evidence


def test_views_behind_the_function_hide_nothing():
    assert len(found(lambda x: torch.relu(x).unsqueeze(0).squeeze(0).reshape(16, 4))) == 1


def test_relu_in_front_of_bce_with_logits():
    assert "sign of a 0" in found(torch.relu, nn.BCEWithLogitsLoss(), MANY)[0].evidence


def test_targets_that_the_last_function_cannot_give():
    values = torch.linspace(-2, 2, 64).reshape(16, 4)
    (finding,) = found(torch.tanh, nn.MSELoss(), values)
    assert "50%" in finding.title and "-2 to 2" in finding.evidence
    assert found(torch.tanh, nn.MSELoss(), values / 2) == []
    assert found(torch.relu, nn.MSELoss(), values.abs()) == []


def test_free_scores_capped_logits_and_leaky_ones_say_nothing():
    for last in (nn.Identity(), lambda x: 30 * torch.tanh(x / 30), nn.LeakyReLU(0.1), nn.Softmax(dim=1)):
        assert found(last) == []
    assert found(nn.LogSoftmax(dim=1), nn.NLLLoss()) == []
    assert found(torch.sigmoid, nn.BCELoss(), MANY) == []
