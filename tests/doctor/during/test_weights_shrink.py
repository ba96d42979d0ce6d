"""Decay against gradient."""

from __future__ import annotations

import pytest
import torch

from tests.doctor.during.loops import found, net


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=1.5),
                                  lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=40.0)])
def test_a_decay_that_wins_is_told_with_what_is_left_of_the_weights(make):
    model = net()
    finding = found(model, optimizer=make(model.parameters()), steps=60)["weights-shrink"]
    assert finding.severity == "error" and "cosine" in finding.evidence and "of their norm left" in finding.evidence


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=5e-4),
                                  lambda p: torch.optim.AdamW(p, 3e-3, weight_decay=0.1),
                                  lambda p: torch.optim.SGD(p, 1e-6)])
def test_usual_decays_and_a_rate_that_is_too_low_are_none(make):
    model = net()
    assert "weights-shrink" not in found(model, optimizer=make(model.parameters()), steps=60)
