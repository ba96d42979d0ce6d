"""What the recording of a forward pass says about each layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.recording import record


class Functional(nn.Module):
    """The same layers as a person writes them: activations are functions, one ReLU module serves twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5), nn.ReLU()

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x = self.relu(x)
        return torch.tanh(self.fc(self.relu(x.mean((2, 3)))))


def test_functions_are_seen_and_named_after_the_layer_before_them():
    torch.manual_seed(0)
    with record(Functional()) as layers:
        layers_model = None
    assert not layers and layers_model is None
    model = Functional()
    with record(model) as layers:
        model(torch.randn(6, 3, 8, 8))
    assert list(layers) == ["conv", "norm", "relu after norm", "relu", "relu#2", "fc", "tanh after fc"]
    assert [layer.units for layer in layers.values()] == [4, 4, 4, 4, 4, 5, 5]
    assert layers["conv"].parameters and not layers["relu"].parameters


def test_the_numbers_are_those_of_the_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].bias[1] = -100.0  # this unit is dead
    images = torch.randn(5, 3, 8, 8)
    with record(model) as layers:
        output = model(images)
    found = layers["1"]
    assert found.dead == 0.25 and found.units == 4 and found.positions == 5 * 36
    assert found.mean == pytest.approx(output.mean().item(), rel=1e-5)
    assert found.std == pytest.approx(output.std(correction=0).item(), rel=1e-5)
    assert found.spread == pytest.approx(output.std(dim=0, correction=0).mean().item(), rel=1e-5)
    assert (found.low, found.high) == (output.min().item(), output.max().item())


def test_units_of_tokens_are_on_the_last_axis_and_of_maps_on_the_second():
    tokens = nn.Sequential(nn.Linear(6, 7), nn.ReLU())
    lines = nn.Sequential(nn.Conv1d(6, 7, 1), nn.ReLU())
    with record(tokens) as of_tokens:
        tokens(torch.randn(2, 3, 6))
    with record(lines) as of_lines:
        lines(torch.randn(2, 6, 3))
    assert of_tokens["1"].units == of_lines["1"].units == 7


def test_saturation_is_the_share_at_the_ends_of_the_range():
    values = torch.tensor([[-9.0, -1.0, 0.0, 9.0]])
    model = nn.Sequential(nn.Tanh())
    with record(model) as layers:
        model(values)
    assert layers["0"].saturated == 0.5
    model = nn.Sequential(nn.Sigmoid())
    with record(model) as layers:
        model(values)
    assert layers["0"].saturated == 0.5


def test_a_loop_over_time_ends_in_one_entry_whose_dead_units_are_dead_at_all_times():
    cell = nn.Sequential(nn.Identity(), nn.ReLU())
    steps = [torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, -1.0]]),
             torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, -1.0]])]
    with record(cell) as layers:
        for step in steps:
            cell(step)
    assert [name for name in layers if name.startswith("1")] == ["1", "1#2", "1#3", "1#4"]
    assert layers["1"].dead == 0.5 and layers["1#2"].dead == 1.0 and layers["1#4"].dead == 0.5
    assert layers["1#4"].calls == 2 and layers["1#4"].mean == pytest.approx(0.25)


def test_outputs_and_gradients_are_not_changed_and_no_hook_stays():
    torch.manual_seed(0)
    model, images = Functional(), torch.randn(4, 3, 8, 8)
    plain = model(images)
    plain.sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with record(model):
        seen = model(images)
    seen.sum().backward()
    assert torch.equal(plain, seen)
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_values_that_are_not_finite_are_seen_and_the_place_of_a_failure_is_known():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(RuntimeError), record(model) as layers:
        model(torch.full((2, 3), math.nan))
    assert not layers["0"].finite and layers.inside == "1"
