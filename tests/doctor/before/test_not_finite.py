"""The first place where a value is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.not_finite import not_finite
from visus.doctor.patient import Patient


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


def patient(*layers, loss=F.cross_entropy, inputs=None, **known):
    torch.manual_seed(0)
    inputs = torch.randn(8, 6) if inputs is None else inputs
    return Patient(model=nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 3)), loss=loss,
                   batches=((inputs, torch.arange(8) % 3),), **known)


def test_a_healthy_net_has_none():
    assert list(not_finite(patient(nn.ReLU()))) == []


def test_the_first_layer_is_named():
    finding, = not_finite(patient(nn.Tanh(), Root(), nn.ReLU()))
    assert finding.layer == "2" and "the 2 layers before it are finite" in finding.evidence


def test_inputs_and_weights_come_first():
    inputs = torch.randn(8, 6)
    inputs[3, 2] = math.nan
    finding, = not_finite(patient(Root(), inputs=inputs))
    assert "inputs" in finding.title and "1 nan" in finding.evidence
    broken = patient(nn.ReLU())
    with torch.no_grad():
        broken.model[2].weight[0, 0] = math.inf
    finding, = not_finite(broken)
    assert "2.weight" in finding.title and finding.layer == "2"


def test_a_loss_that_is_not_finite_at_finite_outputs_is_the_losses_own():
    finding, = not_finite(patient(loss=lambda outputs, targets: (outputs * 0).sum().log()))
    assert finding.severity == "error" and "although the outputs are finite" in finding.title


def naive(outputs, targets):
    return -outputs.softmax(1).log()[torch.arange(len(targets)), targets].mean()


def test_a_written_out_softmax_is_told_before_it_overflows():
    finding, = not_finite(patient(loss=naive))
    assert finding.severity == "warning" and "logarithm of 0" in finding.title


@pytest.mark.parametrize("loss", [F.cross_entropy, F.multi_margin_loss,
                                  nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_stable_losses_stay_finite_there(loss):
    assert list(not_finite(patient(loss=loss))) == []


def test_a_gradient_that_is_not_finite_at_a_finite_loss():
    class Norm(nn.Module):
        def forward(self, x):
            return x / (1 + (x * 0).pow(2).sum(1, keepdim=True).sqrt())

    finding, = not_finite(patient(Norm()))
    assert "gradient is not finite" in finding.title and finding.layer == "0"
