"""Updates beside the weights: too far, too little, none; what healthy nets do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.doctor.during.loops import found, look, net, told
from visus.doctor.during.update_ratio import UpdateRatio
from visus.doctor.look import LayerLook


def looks(ratio: float, *, loss: float = 1.0, lr: float = 0.1, steps: int = 60):
    return [look(step, {"a": LayerLook(ratio=ratio, gradient=1.0, weight=1.0)}, loss=loss, lr=lr)
            for step in range(1, steps + 1)]


def test_a_rate_a_thousand_times_too_high_is_told_at_once_with_the_rate_that_fits():
    finding = found(net(), optimizer=torch.optim.Adam(net().parameters(), 1e-3), steps=1).get("update-ratio")
    assert finding is None  # the optimizer of another net: nothing of this one moves, and one look proves nothing
    model = net()
    finding = found(model, optimizer=torch.optim.Adam(model.parameters(), 1.0), steps=6)["update-ratio"]
    assert finding.severity == "error" and finding.step <= 4
    ratio = float(finding.evidence.split(": ")[1].split(" ")[0])
    assert ratio > 0.3 and f"{1e-3 / ratio:.0e}"[:1] in finding.remedy


@pytest.mark.parametrize("name, lr", [("SGD", 0.05), ("Adam", 3e-3), ("AdamW", 1e-3)])
@pytest.mark.parametrize("norm", [True, False])
def test_usual_rates_say_nothing(name, lr, norm):
    model = net(norm=norm)
    assert "update-ratio" not in found(model, optimizer=getattr(torch.optim, name)(model.parameters(), lr), steps=50)


def test_the_bounds_are_those_of_the_table():
    assert told(UpdateRatio(), looks(0.29, steps=4)) == []
    assert told(UpdateRatio(), looks(0.31, steps=1))[0].severity == "error"
    assert told(UpdateRatio(), looks(0.1, steps=4) + looks(0.31, steps=5))[0].severity == "error"
    assert told(UpdateRatio(), looks(0.09)) == []
    assert told(UpdateRatio(), looks(0.11))[0].severity == "warning"
    assert told(UpdateRatio(), looks(1.1e-5)) == []
    assert told(UpdateRatio(), looks(0.9e-5))[0].severity == "warning"


def test_slow_updates_are_no_fault_when_the_loss_has_come_down_or_the_schedule_ends():
    falling = looks(0.9e-5)[:1] + looks(0.9e-5, loss=0.4)[1:]
    assert told(UpdateRatio(), falling) == []
    ending = looks(1e-3)[:25] + looks(0.9e-5, lr=1e-4)[25:]
    assert told(UpdateRatio(), ending) == []


def test_weights_that_the_optimizer_does_not_hold_are_named():
    model = net()
    optimizer = torch.optim.SGD(model[-1].parameters(), 0.05)
    finding = found(model, optimizer=optimizer, steps=12)["update-ratio"]
    assert finding.severity == "error" and finding.layer == "0"
    assert "2 of 3 weight tensors do not move" in finding.title and "does not hold" in finding.evidence


def test_tensors_frozen_on_purpose_are_not_named():
    model = net()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert "update-ratio" not in found(model, optimizer=torch.optim.SGD(trainable, 0.05), steps=12)


def test_the_median_is_over_tensors_so_one_that_starts_at_zero_does_not_count():
    model = net()
    nn.init.zeros_(model[-1].weight)
    assert "update-ratio" not in found(model, steps=12)
