"""NaN in the loss, with step and layer, once."""

from __future__ import annotations

import torch

from tests.doctor.during.loops import found, look, net, told
from visus.doctor.during.finite_loss import FiniteLoss


def test_weights_that_become_nan_are_told_with_the_step_and_the_last_finite_loss():
    model = net(norm=False)

    def poison(step: int) -> None:
        if step == 7:
            with torch.no_grad():
                model[-1].weight[0, 0] = torch.nan

    finding = found(model, steps=12, each=poison)["finite-loss"]
    assert finding.severity == "error" and finding.step == 8 and finding.layer == "0"
    assert "the last finite one was" in finding.evidence


def test_it_is_told_once_and_a_loss_that_was_never_finite_says_so():
    findings = told(FiniteLoss(), [look(step, loss=float("nan")) for step in (1, 2, 3)])
    assert len(findings) == 1 and "never finite" in findings[0].evidence
    assert told(FiniteLoss(), [look(1, loss=1e30), look(2, loss=0.0), look(3)]) == []
