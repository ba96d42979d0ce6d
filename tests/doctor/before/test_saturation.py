"""Outputs at the ends of tanh and of the sigmoid."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.saturation import saturation
from visus.doctor.patient import Patient


class Functional(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 3)
        nn.init.normal_(self.one.weight, std=gain / 4)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def told(gain, act=nn.Tanh, model=None, **known):
    torch.manual_seed(0)
    if model is None:
        model = nn.Sequential(nn.Linear(16, 32), act(), nn.Linear(32, 3))
        nn.init.normal_(model[0].weight, std=gain / 4)
    inputs, targets = torch.randn(64, 16), torch.arange(64) % 3
    return list(saturation(Patient(model=model, loss=F.cross_entropy, batches=((inputs, targets),), **known)))


@pytest.mark.parametrize("act, gain", [(nn.Tanh, 1.0), (nn.Sigmoid, 1.7), (nn.ReLU, 50.0)])
def test_weights_at_their_scale_are_silent(act, gain):
    assert told(gain, act) == []


@pytest.mark.parametrize("act, gain, severity", [(nn.Tanh, 2.5, "warning"), (nn.Tanh, 10.0, "error"),
                                                 (nn.Sigmoid, 4.0, "warning"), (nn.Sigmoid, 20.0, "error")])
def test_larger_weights_push_the_outputs_to_the_ends(act, gain, severity):
    finding, = told(gain, act)
    assert finding.severity == severity and finding.layer == "1" and "0 before it" in finding.evidence


def test_a_function_is_seen_as_a_layer_is():
    torch.manual_seed(0)
    finding, = told(0, model=Functional(10.0))
    assert finding.severity == "error" and "tanh after one" in finding.title


def test_trained_gates_are_only_noted_and_the_last_sigmoid_is_not_counted():
    finding, = told(20.0, nn.Sigmoid, pretrained=True)
    assert finding.severity == "note"
    last = nn.Sequential(nn.Linear(16, 3), nn.Sigmoid())
    nn.init.normal_(last[0].weight, std=20.0)
    assert told(0, model=last) == []
