"""Divergence and a jump back; single high losses are none."""

from __future__ import annotations

import torch

from tests.doctor.during.loops import found, look, net, told
from visus.doctor.during.loss_spike import LossSpike


def losses(values: list[float]):
    return [look(step, loss=value) for step, value in enumerate(values, 1)]


def test_a_loss_above_three_times_its_start_is_divergence():
    finding = told(LossSpike(), losses([1.0] * 10 + [3.1] * 8))
    assert len(finding) == 1 and finding[0].severity == "error" and "3.1 times" in finding[0].title
    assert told(LossSpike(), losses([1.0] * 10 + [2.9] * 8)) == []


def test_a_jump_back_above_the_start_is_told_and_single_high_losses_are_not():
    learnt = [1.0] * 5 + [0.2] * 60
    finding = told(LossSpike(), losses(learnt + [1.2] * 5))[0]
    assert finding.severity == "warning" and finding.step == 68
    assert told(LossSpike(), losses(learnt + [4.0, 0.2, 0.2, 0.2] * 5 + [0.9] * 5)) == []


def test_a_rate_that_is_far_too_high_for_a_plain_net_is_found():
    model = net(norm=False)
    names = found(model, optimizer=torch.optim.SGD(model.parameters(), 20.0), steps=30)
    assert {"loss-spike", "finite-loss"} & names.keys()
