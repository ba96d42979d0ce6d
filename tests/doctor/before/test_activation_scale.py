"""The size of the outputs over the depth of a fresh net."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.activation_scale import activation_scale
from visus.doctor.patient import Patient


def net(depth=10, *, gain=2 ** 0.5, act=nn.ReLU, norm=False, width=48):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=gain / width ** 0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.BatchNorm1d(width)] if norm else [linear]
        layers.append(act())
    return nn.Sequential(*layers, nn.Linear(width, 3))


def told(model, **known):
    torch.manual_seed(1)
    inputs, targets = torch.randn(32, 48), torch.arange(32) % 3
    return list(activation_scale(Patient(model=model, loss=F.cross_entropy, batches=((inputs, targets),), **known)))


@pytest.mark.parametrize("model", [net(), net(20), net(gain=1.0, act=nn.Tanh), net(gain=30.0, norm=True)])
def test_nets_at_the_scale_of_theory_are_silent(model):
    assert told(model) == []


def test_outputs_that_shrink_are_told_with_the_gain():
    finding, = told(net(gain=0.3))
    assert finding.severity == "warning" and "gain of 0.3" in finding.evidence and "larger" in finding.remedy
    assert finding.layer == "8"  # 0.3 / sqrt(2) a layer: the fifth is the first below 1e-3
    assert told(net(gain=0.3), pretrained=True) == []


def test_outputs_that_grow_are_told():
    finding, = told(net(gain=8.0))
    assert "smaller" in finding.remedy and finding.layer == "4"


def test_a_change_over_the_depth_is_told_within_the_bounds():
    model = net(9, gain=2 ** 0.5 * 2.6)
    with torch.no_grad():
        model[0].weight *= 0.003
    finding, = told(model)
    assert "grow" in finding.title and "nothing normalises" in finding.title


def test_differences_between_samples_that_fade_are_told():
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(48, 48), nn.Sigmoid())], nn.Linear(48, 3))
    finding, = told(model)
    assert "differences between the samples" in finding.title and finding.layer == "14"


def test_a_last_layer_and_layers_that_begin_at_zero_are_not_counted():
    model = net()
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[2].weight)
    nn.init.ones_(model[2].bias)
    assert not [f for f in told(model) if f.layer in ("2", "20")]
