"""Tanh at its ends; gates and last sigmoids may be sure of themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.doctor.during.loops import found, look, net, told
from visus.doctor.during.saturated_while_training import SaturatedWhileTraining
from visus.doctor.look import LayerLook


def test_weights_that_are_too_large_saturate_tanh_and_the_layer_is_named():
    model = net(norm=False, act=nn.Tanh)
    with torch.no_grad():
        model[0].weight.mul_(30.0)
    finding = found(model, steps=6, lr=1e-4)["saturated-while-training"]
    assert finding.layer == "0" and finding.severity == "error" and finding.step == 3


def test_tanh_that_starts_after_xavier_is_none():
    assert "saturated-while-training" not in found(net(norm=False, act=nn.Tanh), steps=30, lr=0.02)


def test_a_gate_that_is_open_is_none():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate, self.head = nn.Linear(64, 16), nn.Linear(64, 16), nn.Linear(16, 3)
            nn.init.constant_(self.gate.bias, 8.0)

        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)
            return self.head(torch.relu(self.body(x)) * torch.sigmoid(self.gate(x)))

    assert "saturated-while-training" not in found(Gated(), steps=6, lr=1e-3)


def test_a_recurrent_net_at_its_ends_is_told():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNN(8, 16, batch_first=True), nn.Linear(16, 3)
            with torch.no_grad():
                self.cell.weight_ih_l0.mul_(40.0)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.cell(images[:, 0])[0][:, -1])

    torch.manual_seed(0)
    assert found(Rows(), steps=5, lr=1e-4)["saturated-while-training"].layer == "cell"


def test_the_bounds_are_those_of_the_table_at_three_looks():
    def looks(share: float, count: int = 3):
        return [look(step, {"a": LayerLook(saturated=share)}) for step in range(1, count + 1)]

    assert told(SaturatedWhileTraining(), looks(0.49)) == []
    assert told(SaturatedWhileTraining(), looks(0.51))[0].severity == "warning"
    assert told(SaturatedWhileTraining(), looks(0.81))[0].severity == "error"
    assert told(SaturatedWhileTraining(), looks(0.9, 2)) == []
