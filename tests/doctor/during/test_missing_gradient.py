"""Weights without a gradient: detached, unused; not those whose gradient is zero once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.doctor.during.loops import found, net


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.second(torch.relu(self.first(images)))).detach()
        return self.head(features.flatten(1))


def test_a_detached_backbone_is_told_after_five_steps_with_its_first_layer():
    torch.manual_seed(0)
    finding = found(Detached(), steps=8)["missing-gradient"]
    assert finding.severity == "error" and finding.step == 5 and finding.layer == "first"
    assert "first.weight, second.weight" in finding.title and "of 3 layers" in finding.evidence


def test_a_last_layer_that_starts_at_zero_is_none():
    model = net()
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    assert "missing-gradient" not in found(model, steps=8)


def test_a_bias_alone_is_a_note():
    class Spare(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*net())
            self.spare = nn.Parameter(torch.zeros(3))

    finding = found(Spare(), steps=8)["missing-gradient"]
    assert finding.severity == "note" and "spare" in finding.title


def test_frozen_weights_are_none():
    model = net()
    model[0].requires_grad_(False)
    assert "missing-gradient" not in found(model, steps=8, optimizer=torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 0.05))
