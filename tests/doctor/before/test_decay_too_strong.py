from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.decay_too_strong import decay_too_strong
from visus.doctor.patient import Patient


def found(build, **known) -> list:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))
    batch = (torch.randn(32, 10), torch.arange(32) % 4)
    return list(decay_too_strong(Patient(model=model, loss=F.cross_entropy, batches=(batch,),
                                         optimizer=build(model.parameters()), **known)))


@pytest.mark.parametrize("lr, decay, momentum, severities", [
    (0.1, 5e-4, 0.9, []), (0.1, 4e-2, 0.0, []), (0.1, 6e-2, 0.0, ["warning"]), (0.1, 6e-3, 0.9, ["warning"]),
    (0.1, 0.5, 0.9, ["error"])])
def test_sgd_by_rate_decay_and_momentum(lr: float, decay: float, momentum: float, severities: list[str]):
    findings = found(lambda p: torch.optim.SGD(p, lr=lr, weight_decay=decay, momentum=momentum))
    assert [f.severity for f in findings] == severities


def test_adamw_tells_the_half_life():
    assert found(lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.3)) == []
    (finding,) = found(lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=50))
    assert finding.severity == "error" and "every 5 steps" in finding.title and "0.15 a step" in finding.evidence


def test_the_peak_of_a_schedule_counts():
    def warming(parameters) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=10)
        torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3)
        return optimizer

    assert len(found(warming)) == 1


def test_adams_own_decay_is_measured_against_the_gradient():
    assert found(lambda p: torch.optim.Adam(p, weight_decay=1e-4)) == []
    (finding,) = found(lambda p: torch.optim.Adam(p, weight_decay=1.0))
    assert "times the gradient" in finding.title and "2 weights" in finding.evidence


def test_a_penalty_counts_as_decay():
    def penalty(factor: float):
        return lambda model: factor * sum((p ** 2).sum() for p in model.parameters())

    plain = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    assert found(plain, penalty=penalty(1e-3)) == []
    assert found(plain, penalty=penalty(1.0))[0].severity == "error"
    assert found(torch.optim.Adam, penalty=penalty(1e-4)) == []
    assert len(found(torch.optim.Adam, penalty=penalty(1.0))) == 1
