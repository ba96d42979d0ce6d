"""Gradients that are not finite or jump; noise in a net that has learnt is none."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.during.loops import by_check, fit, found, look, net, told
from visus.doctor.during.exploding_gradient import ExplodingGradient
from visus.doctor.look import LayerLook
from visus.doctor.watcher import Watcher


def norms(values: list[float], **facts):
    layers = {"a": LayerLook(gradient=0.1), "b": LayerLook(gradient=9.0)}
    return [look(step, layers, gradient_norm=value, loss=1.0, **facts) for step, value in enumerate(values, 1)]


def test_a_jump_beyond_a_hundred_medians_is_told_once_with_the_layer_that_has_most_of_it():
    findings = told(ExplodingGradient(), norms([1.0] * 30 + [101.0, 300.0]))
    assert len(findings) == 1 and findings[0].step == 31 and findings[0].layer == "b"
    assert "101 times larger" in findings[0].title and findings[0].severity == "warning"
    assert told(ExplodingGradient(), norms([1.0] * 30 + [99.0])) == []


def test_a_hard_sample_after_the_data_are_learnt_is_none():
    assert told(ExplodingGradient(), norms([1.0] * 10 + [1e-4] * 200 + [5.0])) == []


def test_a_gradient_that_is_not_finite_is_an_error_and_names_the_layer_unless_a_loss_scale_looks_after_it():
    finding = told(ExplodingGradient(), norms([1.0, float("inf")], not_finite="stem.weight"))[0]
    assert finding.severity == "error" and finding.layer == "stem" and finding.step == 2
    assert told(ExplodingGradient(), norms([1.0, float("inf")], scale=1024.0)) == []


def test_a_gradient_that_is_enormous_beside_the_loss_is_told_in_the_first_steps():
    class Unscaled(nn.Sequential):
        def forward(self, images):
            return super().forward(1e4 * images)

    torch.manual_seed(0)
    model = Unscaled(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight.mul_(1e-4)
    finding = found(model, lr=1e-12, steps=6)["exploding-gradient"]
    assert finding.step == 3 and "from the start" in finding.title and finding.layer == "1"
    assert "exploding-gradient" not in found(net(), lr=1e-12, steps=6)


def test_the_root_of_zero_is_found_in_the_gradient():
    class Distance(nn.Module):
        def forward(self, logits, labels):
            return ((logits - logits) ** 2).sum(1).sqrt().mean() + nn.functional.cross_entropy(logits, labels)

    model, loss = net(), Distance()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with Watcher(model, optimizer, loss) as watcher:
        fit(model, optimizer, loss, steps=2)
    finding = by_check(watcher)["exploding-gradient"]
    assert finding.severity == "error" and finding.step == 1 and finding.layer == "0"
