"""Units behind a ReLU that never answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.dead_units import dead_units
from visus.doctor.patient import Patient


def told(dead, *, units=40, rare=False, **known):
    """A net of which `dead` units of the hidden layer have a bias of -50. rare: they answer to the samples after the
    first batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, units), nn.ReLU(), nn.Linear(units, 3))
    with torch.no_grad():
        model[0].weight[:, 0] = 1.0
        model[0].bias[:dead] = -50.0
    inputs, targets = torch.randn(256, 6), torch.arange(256) % 3
    if rare:
        inputs[64:, 0] = 100.0
    batches = tuple(zip(inputs.split(64), targets.split(64), strict=True))
    return list(dead_units(Patient(model=model, loss=F.cross_entropy, batches=batches, **known)))


@pytest.mark.parametrize("dead, severities", [(0, []), (32, []), (33, ["warning"]), (37, ["error"])])
def test_bounds_of_fresh_weights_are_80_and_90_percent(dead, severities):
    assert [finding.severity for finding in told(dead)] == severities


@pytest.mark.parametrize("dead, severities", [(12, []), (13, ["warning"]), (21, ["error"])])
def test_bounds_of_trained_weights_are_30_and_50_percent(dead, severities):
    found = told(dead, pretrained=True)
    assert [finding.severity for finding in found] == severities
    assert all(finding.layer == "1" for finding in found)


def test_the_share_and_the_bias_are_in_the_evidence():
    finding, = told(40)
    assert "100% of the 40 units" in finding.title and "bias of 0 has a mean of -50" in finding.evidence


def test_a_rare_feature_is_not_dead():
    assert told(40, rare=True) == []


def test_small_layers_count_only_when_all_units_are_dead():
    assert told(15, units=16) == []
    assert len(told(16, units=16)) == 1
