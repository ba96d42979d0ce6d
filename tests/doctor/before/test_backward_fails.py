"""Errors of a pass, in the words of a training loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.backward_fails import backward_fails
from visus.doctor.patient import Patient

INPUTS, TARGETS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


class Of(nn.Module):
    """A module from a function of x."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def told(*layers, loss=F.cross_entropy, batch=(INPUTS, TARGETS), model=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 3))
    return list(backward_fails(Patient(model=model, loss=loss, batches=(batch, batch))))


def one(*layers, **known):
    finding, = told(*layers, **known)
    assert finding.severity == "error" and finding.check == "backward-fails"
    return finding


@pytest.mark.parametrize("layers", [(nn.ReLU(),), (nn.ReLU(inplace=True),), (nn.BatchNorm1d(6), nn.Dropout(0.5)),
                                    (Of(lambda x: x.add_(1.0)),)])
def test_a_pass_that_works_is_silent(layers):
    assert told(*layers) == []


def test_a_change_in_place_is_named_with_its_layer():
    finding = one(nn.Sigmoid(), Of(lambda x: x.mul_(2.0)), nn.Tanh())
    assert "in place after 1" in finding.title and finding.layer == "1" and "Sigmoid" in finding.remedy


def test_a_model_that_writes_into_its_inputs_is_no_failure():
    model = nn.Sequential(Of(lambda x: x.sub_(0.5)), nn.Linear(6, 3))
    batch = (INPUTS.clone(), TARGETS)
    assert told(model=model, batch=batch) == []
    assert torch.equal(batch[0], INPUTS)


@pytest.mark.parametrize("loss, title", [
    (lambda o, y: F.cross_entropy(o.detach(), y), "cut off from the outputs"),
    (lambda o, y: F.cross_entropy(o, y).item(), "cut off from the outputs"),
    (lambda o, y: (o.argmax(1) != y).float().mean(), "cut off from the outputs"),
    (lambda o, y: F.cross_entropy(o, y, reduction="none"), "cannot be computed"),
    (lambda o, y: F.cross_entropy(o, y.double()), "cannot be computed"),
])
def test_a_loss_that_cannot_be_followed_back(loss, title):
    assert title in one(loss=loss).title


def test_outputs_that_are_cut_off_and_parameters_that_are_frozen_are_told_apart():
    cut = nn.Sequential(nn.Linear(6, 3), Of(lambda x: x.detach()))
    assert "outputs of the model are cut off" in one(model=cut).title
    assert "all are frozen" in one(model=nn.Linear(6, 3).requires_grad_(False)).title


def test_a_layer_that_the_shape_does_not_fit_is_named():
    finding = one(nn.Linear(5, 6))
    assert finding.layer == "1" and "shape" in finding.remedy


def test_types_that_do_not_fit():
    assert ".float()" in one(batch=(INPUTS.double(), TARGETS)).remedy


def test_one_value_for_batch_normalisation():
    finding = one(nn.BatchNorm1d(6), batch=(INPUTS[:1], TARGETS[:1]))
    assert finding.layer == "1" and "drop_last" in finding.remedy


def test_a_state_that_is_carried_over_fails_with_the_second_batch():
    class Carrying(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.cell, self.head, self.state, self.cut = nn.RNNCell(6, 5), nn.Linear(5, 3), None, cut

        def forward(self, x):
            state = self.cell(x, self.state)
            self.state = state.detach() if self.cut else state
            return self.head(state)

    assert "second batch" in one(model=Carrying(cut=False)).title
    assert told(model=Carrying(cut=True)) == []
