"""Outputs that are the same whatever the input is."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.before.test_overfit_batch import Dropping, patient
from visus.doctor.before.input_ignored import input_ignored


def test_a_net_that_drops_its_input_is_an_error_and_one_that_begins_at_zero_is_not():
    torch.manual_seed(0)
    finding, = input_ignored(patient(Dropping()))
    assert finding.severity == "error" and "0 of their size" in finding.evidence
    fresh = nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 3))
    nn.init.zeros_(fresh[2].weight)
    assert list(input_ignored(patient(fresh))) == []


def test_the_layer_that_loses_the_input_is_named():
    class Killing(nn.Module):
        def forward(self, x):
            return x.mean(0, keepdim=True).expand_as(x)

    torch.manual_seed(0)
    finding, = input_ignored(patient(nn.Sequential(nn.Linear(20, 24), Killing(), nn.Linear(24, 3))))
    assert "same for all samples is 1" in finding.evidence


def test_differences_that_fade_over_the_depth_are_another_fault():
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(20, 20), nn.Sigmoid())]
    sick = patient(nn.Sequential(*layers, nn.Linear(20, 3)))
    assert list(input_ignored(sick)) == []
