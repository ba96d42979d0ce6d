"""Which parameters the gradient reaches."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.gradient_path import gradient_path
from visus.doctor.patient import Patient


class Net(nn.Module):
    """A backbone of two layers and a head. way: what happens between them."""

    def __init__(self, way=lambda x: x, spare=0):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.spare = nn.Linear(spare, spare) if spare else None
        self.way = way

    def forward(self, x):
        return self.head(self.way(F.relu(self.two(F.relu(self.one(x))))))


def told(model):
    torch.manual_seed(0)
    inputs, targets = torch.randn(16, 6), torch.arange(16) % 3
    return list(gradient_path(Patient(model=model, loss=F.cross_entropy, batches=((inputs, targets),))))


def test_a_whole_path_is_silent_and_the_weights_are_not_touched():
    torch.manual_seed(0)
    model = Net()
    before = [p.detach().clone() for p in model.parameters()]
    assert told(model) == []
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_detached_part_is_named_from_the_cut_on():
    torch.manual_seed(0)
    finding, = told(Net(way=lambda x: x.detach()))
    assert finding.severity == "error" and finding.layer == "two"
    assert "4 of 6 parameters" in finding.evidence and "head.weight gets one" in finding.evidence


def test_a_part_that_is_multiplied_by_zero_has_a_gradient_of_exactly_zero():
    class Gated(Net):
        def forward(self, x):
            x = self.one(x)
            return self.head(x + 0.0 * self.two(x))

    torch.manual_seed(0)
    finding, = told(Gated())
    assert "exactly 0" in finding.title and finding.layer == "two" and "2 of 6" in finding.evidence


def test_an_input_that_is_lost_is_another_finding():
    torch.manual_seed(0)
    assert told(Net(way=lambda x: x * 0.0)) == []


def test_zeros_that_open_after_the_first_step_are_healthy():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.last, self.head = (nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8),
                                                           nn.Linear(8, 3))
            for layer in (self.last, self.head):  # the gradient of `inner` is exactly 0 at steps 0 and 1
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.last(F.gelu(self.inner(x))))

    torch.manual_seed(0)
    assert told(Residual()) == []


def test_a_bias_before_normalisation_is_no_finding():
    torch.manual_seed(0)
    assert told(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))) == []


def test_an_unused_layer_is_a_warning_by_its_share():
    torch.manual_seed(0)
    large, = told(Net(spare=8))
    small, = told(Net(spare=2))
    assert large.severity == "warning" and large.layer == "spare" and small.severity == "note"


def test_frozen_parameters_are_not_asked():
    torch.manual_seed(0)
    model = Net()
    model.one.requires_grad_(False)
    assert told(model) == []
