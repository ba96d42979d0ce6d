"""A small batch learnt by heart."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor import short_run
from visus.doctor.before.input_ignored import input_ignored
from visus.doctor.before.overfit_batch import overfit_batch
from visus.doctor.before.rate_range import rate_range
from visus.doctor.patient import Patient, untouched
from visus.doctor.thresholds import THRESHOLDS, Threshold


class Dropping(nn.Module):
    """Forgets its input."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(20, 24), nn.Linear(24, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(torch.zeros_like(x))))


def patient(model=None, rate=None, loss=F.cross_entropy, kind=torch.optim.Adam, features=20, **known):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(features, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 3))
    inputs = torch.randn(64, features)
    targets = inputs[:, :2].sum(1).add(1).clamp(0, 2).long()
    optimizer = None if rate is None else kind(model.parameters(), lr=rate, weight_decay=0.1)
    return Patient(model=model, loss=loss, optimizer=optimizer,
                   batches=tuple(zip(inputs.split(16), targets.split(16), strict=True)), **known)


@pytest.mark.parametrize("rate", [None, 3e-3])
def test_a_sound_net_learns_the_batch_and_nothing_of_it_is_changed(rate):
    well = patient(rate=rate)
    before = {name: value.clone() for name, value in well.model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert list(overfit_batch(well)) == [] and list(rate_range(well)) == [] and list(input_ignored(well)) == []
    assert all(torch.equal(value, before[name]) for name, value in well.model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert well.optimizer is None or not well.optimizer.state_dict()["state"]


def test_label_smoothing_leaves_a_floor_that_is_not_asked_for():
    assert list(overfit_batch(patient(rate=3e-3, loss=nn.CrossEntropyLoss(label_smoothing=0.2)))) == []


def test_a_net_that_cannot_learn_the_batch_is_an_error():
    finding, = overfit_batch(patient(Dropping(), rate=3e-3))
    assert finding.severity == "error" and "16 samples" in finding.title and "below" in finding.evidence


def test_samples_of_two_numbers_are_no_reason_for_an_alarm():
    findings = list(overfit_batch(patient(nn.Linear(2, 3), rate=3e-3, features=2)))
    assert all(finding.severity == "note" for finding in findings)


def test_short_runs_are_made_once(monkeypatch):
    well = patient(rate=3e-3)
    with untouched(well.model, well.optimizer):
        list(overfit_batch(well))
        monkeypatch.setattr(short_run, "_overfit", None)
        assert list(overfit_batch(well)) == []


def test_time_that_runs_out_tells_nothing(monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "overfit-batch.seconds", Threshold(0.0, "no time"))
    assert list(overfit_batch(patient(rate=3e-3))) == [] and list(rate_range(patient(rate=1e-7))) == []
    assert list(input_ignored(patient(Dropping()))) == []
