"""The loss of a fresh net against that of a guess, for any loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.before.initial_loss import initial_loss
from visus.doctor.patient import Patient
from visus.losses.classification import multiclass_hinge


def patient(loss, classes=10, *, scale=1.0, targets=None, outputs=None, bias=None, **known):
    """A linear net whose logits have a standard deviation of about `scale`."""
    torch.manual_seed(0)
    model = nn.Linear(16, outputs or classes)
    with torch.no_grad():
        model.weight.normal_(0, 0.05 * scale / 4)
        model.bias.zero_()
        if bias is not None:
            model.bias.copy_(bias)
    inputs = torch.randn(128, 16)
    targets = torch.arange(128) % classes if targets is None else targets
    return Patient(model=model, loss=loss, batches=((inputs, targets),), **known)


def labels():
    return (torch.arange(128 * 4).view(128, 4) % 3 == 0).float()


@pytest.mark.parametrize("loss, targets, outputs", [
    (F.cross_entropy, None, 10),
    (nn.CrossEntropyLoss(label_smoothing=0.1), None, 10),
    (nn.CrossEntropyLoss(reduction="sum"), None, 10),
    (multiclass_hinge, None, 10),
    (F.binary_cross_entropy_with_logits, labels(), 4),
    (F.mse_loss, torch.linspace(-2, 2, 128).view(128, 1), 1),
])
def test_a_fresh_net_is_at_the_guess_for_every_loss(loss, targets, outputs):
    assert list(initial_loss(patient(loss, targets=targets, outputs=outputs))) == []


@pytest.mark.parametrize("loss, form", [(F.cross_entropy, "= ln 10"), (multiclass_hinge, "= 10 - 1")])
def test_weights_drawn_too_large_are_an_error_beside_the_closed_form(loss, form):
    finding, = initial_loss(patient(loss, scale=200))
    assert finding.severity == "error" and form in finding.evidence


def test_labels_have_the_closed_form_ln_2():
    finding, = initial_loss(patient(F.binary_cross_entropy_with_logits, targets=labels(), outputs=4, scale=200))
    assert "= ln 2" in finding.evidence


def test_squared_error_is_compared_with_the_variance_of_the_targets():
    targets = torch.linspace(-2, 2, 128).view(128, 1)
    finding, = initial_loss(patient(F.mse_loss, targets=targets, outputs=1, scale=200))
    assert finding.severity == "error" and "= variance of the targets" in finding.evidence
    note, = initial_loss(patient(F.mse_loss, targets=targets + 50, outputs=1))
    assert note.severity == "note" and "far from 0" in note.title


def test_the_bounds_are_half_and_double():
    targets = torch.arange(128) % 10
    for ratio, severities in ((0.45, ["error"]), (0.6, ["note"]), (1.9, ["note"]), (2.1, ["error"])):
        got = initial_loss(patient(_Scaled(ratio), targets=targets))
        assert [finding.severity for finding in got] == severities, ratio


class _Scaled:
    """Cross-entropy of the model's outputs is `ratio` times that of a guess, which stays ln 10."""

    def __init__(self, ratio):
        self.ratio = ratio

    def __call__(self, outputs, targets):
        made_up = bool((outputs == outputs[0]).all()) or bool((outputs.abs() == 10).all())
        return F.cross_entropy(outputs, targets) if made_up else outputs.new_tensor(self.ratio * math.log(10))


def test_a_bias_at_the_shares_of_unequal_classes_is_healthy():
    targets = (torch.arange(128) >= 126).long()  # 98.4 % of one class: the best guess has 0.08, not ln 2
    share = torch.tensor([126 / 128, 2 / 128])
    assert not [f for f in initial_loss(patient(F.cross_entropy, 2, targets=targets, bias=share.log()))
                if f.severity != "note"]


def test_a_loss_below_every_guess_is_told():
    targets = torch.arange(128) % 10
    sure = patient(F.cross_entropy, targets=targets)
    sure = Patient(model=nn.Identity(), loss=F.cross_entropy, batches=((10.0 * F.one_hot(targets).float(), targets),))
    finding, = initial_loss(sure)
    assert finding.severity == "error" and "cannot know" in finding.title
    trained = Patient(model=sure.model, loss=sure.loss, batches=sure.batches, pretrained=True)
    assert list(initial_loss(trained)) == []


def test_a_turned_sign_is_named():
    finding, = initial_loss(patient(lambda outputs, targets: -F.cross_entropy(outputs, targets)))
    assert finding.severity == "error" and "lower for wrong answers" in finding.title


def test_of_a_pretrained_net_only_a_head_that_is_worse_than_a_guess_is_told():
    targets = torch.arange(128) % 10
    wrong_order = Patient(model=nn.Identity(), loss=F.cross_entropy, pretrained=True,
                          batches=((10.0 * F.one_hot((targets + 1) % 10).float(), targets),))
    finding, = initial_loss(wrong_order)
    assert finding.severity == "warning" and "order of the classes" in finding.remedy


@pytest.mark.parametrize("last, loss", [(nn.LogSoftmax(1), F.nll_loss),
                                        (nn.Softmax(1), lambda p, y: F.nll_loss(p.log(), y))])
def test_outputs_that_are_probabilities_are_understood(last, loss):
    well = patient(loss)
    assert list(initial_loss(Patient(model=nn.Sequential(well.model, last), loss=loss, batches=well.batches))) == []


def test_probabilities_of_labels_are_understood():
    well = patient(F.binary_cross_entropy, targets=labels(), outputs=4)
    model = nn.Sequential(well.model, nn.Sigmoid())
    assert list(initial_loss(Patient(model=model, loss=F.binary_cross_entropy, batches=well.batches))) == []


def test_embeddings_and_losses_that_take_no_made_up_outputs_are_left_alone():
    def triplet(outputs, targets):
        if not outputs.requires_grad and outputs.abs().sum() == 0:
            raise ValueError
        return outputs.sum()

    assert list(initial_loss(patient(triplet))) == []
