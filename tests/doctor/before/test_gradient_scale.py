"""The gradient over depth and over time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.doctor.before.test_activation_scale import net
from visus.doctor.before.gradient_scale import gradient_scale
from visus.doctor.patient import Patient


def told(model, inputs=None, **known):
    torch.manual_seed(1)
    inputs = torch.randn(32, 48) if inputs is None else inputs
    return list(gradient_scale(Patient(model=model, loss=F.cross_entropy,
                                       batches=((inputs, torch.arange(len(inputs)) % 3),), **known)))


@pytest.mark.parametrize("model", [net(), net(gain=1.0, act=nn.Tanh), net(norm=True)])
def test_nets_at_the_scale_of_theory_are_silent(model):
    assert told(model) == []


def test_a_stack_of_sigmoids_lets_the_gradient_vanish():
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(9) for layer in (nn.Linear(48, 48), nn.Sigmoid())], nn.Linear(48, 3))
    finding, = told(model)
    assert finding.severity == "warning" and finding.layer == "0" and "vanishes" in finding.title
    assert told(model, pretrained=True) == []


def test_a_linear_stack_of_shrinking_layers_lets_it_explode():
    torch.manual_seed(0)
    model = net(9, gain=1.0, act=nn.Identity)
    with torch.no_grad():
        for number, layer in enumerate(layer for layer in model if isinstance(layer, nn.Linear)):
            layer.weight *= 1e-5 if number < 3 else 30.0 if number < 6 else 1.0
    finding, = told(model)
    assert "explodes" in finding.title


class Reader(nn.Module):
    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.RNN(4, 16, batch_first=True, nonlinearity="relu"), nn.Linear(16, 3)
        with torch.no_grad():
            nn.init.orthogonal_(self.cell.weight_hh_l0)
            self.cell.weight_hh_l0 *= factor

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("factor, severities", [(1.4, []), (1.55, ["warning"]), (2.6, ["error"]), (0.3, ["note"])])
def test_through_time_the_gradient_grows_with_the_recurrent_weights(factor, severities):
    torch.manual_seed(2)
    found = told(Reader(factor), torch.randn(16, 24, 4))
    assert [finding.severity for finding in found] == severities
    assert all("24 steps of time" in finding.title for finding in found)
