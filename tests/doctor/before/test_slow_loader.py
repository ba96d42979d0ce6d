"""The time for a batch against the time of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.slow_loader import slow_loader
from visus.doctor.first_pass import FirstPass
from visus.doctor.patient import Patient
from visus.doctor.recording import Recording


def told(load, step, count=6):
    """load, step: seconds; the first batch starts the workers and takes 5 s."""
    patient = Patient(model=nn.Linear(4, 3), loss=F.cross_entropy, seconds=(5.0,) + (load,) * count,
                      batches=((torch.randn(8, 4), torch.arange(8) % 3),))
    patient.remembered["first-pass"] = FirstPass(layers=Recording(), gradients={}, seconds=step)
    return list(slow_loader(patient))


@pytest.mark.parametrize("load, step, severities", [
    (0.010, 0.001, []),  # tensors in memory
    (0.100, 0.600, []),
    (0.100, 0.300, ["note"]),
    (0.100, 0.099, ["warning"]),
])
def test_the_share_of_waiting_decides(load, step, severities):
    assert [finding.severity for finding in told(load, step)] == severities


def test_the_numbers_are_in_the_evidence():
    finding, = told(0.2, 0.1)
    assert "200 ms, 2 times a step" in finding.title and "40 samples a second" in finding.evidence


def test_too_few_batches_tell_nothing():
    assert told(0.2, 0.1, count=2) == []
