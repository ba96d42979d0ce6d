"""Units that can never become different."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.symmetric_weights import symmetric_weights
from visus.doctor.patient import Patient


def told(change=lambda model: None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        change(model)
    inputs, targets = torch.randn(16, 3, 8, 8), torch.arange(16) % 3
    return list(symmetric_weights(Patient(model=model, loss=F.cross_entropy, batches=((inputs, targets),))))


def fill(value, *layers):
    def change(model):
        for number in layers:
            model[number].weight.fill_(value)
            model[number].bias.fill_(value)
    return change


def test_random_weights_are_silent():
    assert told() == []


@pytest.mark.parametrize("value, word", [(0.0, "zero"), (0.1, "the same")])
def test_weights_that_are_all_equal_are_named_from_the_first_layer_on(value, word):
    finding, = told(fill(value, 0, 3, 5))
    assert finding.severity == "error" and finding.layer == "0" and word in finding.title


def test_one_layer_of_equal_units_is_found():
    def equal(model):
        model[3].weight.copy_(model[3].weight[:1].expand(8, -1))
        model[3].bias.zero_()
        model[5].weight.copy_(model[5].weight[:, :1].expand(-1, 8))
    finding, = told(equal)
    assert finding.layer == "3" and "[8, 288]" in finding.evidence


def test_a_last_layer_of_zeros_is_healthy():
    assert told(fill(0.0, 5)) == []
