from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.doctor.before.dropout_too_strong import dropout_too_strong
from visus.doctor.patient import Patient


def found(model: nn.Module) -> list:
    inputs = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    return list(dropout_too_strong(Patient(model=model, loss=F.cross_entropy, batches=(
        (inputs, torch.zeros(4, dtype=torch.int64)),))))


def hidden(rate: float, width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Dropout(rate), nn.Linear(width, 3))


@pytest.mark.parametrize("rate, severities", [(0.5, []), (0.8, []), (0.85, ["warning"]), (0.95, ["error"])])
def test_the_bounds_of_the_rate(rate: float, severities: list[str]):
    findings = found(hidden(rate))
    assert [f.severity for f in findings] == severities and all(f.layer == "2" for f in findings)


def test_a_function_counts_as_well_as_a_module():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(20, 3)

        def forward(self, vectors: Tensor) -> Tensor:
            return self.linear(F.dropout(torch.relu(vectors), 0.9, training=self.training))

    (finding,) = found(Functional())
    assert "90%" in finding.title and "function" in finding.title and finding.layer is None


def test_raw_inputs_bear_half():
    assert found(nn.Sequential(nn.Dropout(0.5), nn.Linear(20, 3))) == []
    (finding,) = found(nn.Sequential(nn.Dropout(0.6), nn.Linear(20, 3)))
    assert "bound 0.5 for inputs" in finding.evidence


def test_few_units_that_are_halved():
    (finding,) = found(hidden(0.6, width=4))
    assert "1.6 of 4 units" in finding.evidence
    assert found(hidden(0.5, width=4)) == []


def test_norms_keep_their_statistics():
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 3))
    assert found(model) == [] and int(model[1].num_batches_tracked) == 0
