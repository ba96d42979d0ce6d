"""eval() that nothing takes back."""

from __future__ import annotations

from tests.doctor.during.loops import found, net


def test_a_validation_that_leaves_eval_mode_on_is_an_error_from_that_step():
    model = net()
    finding = found(model, steps=14, each=lambda step: model.eval() if step == 8 else None)["trained-in-eval-mode"]
    assert finding.severity == "error" and "since step 9" in finding.title and finding.step == 11


def test_eval_mode_from_the_first_step_may_be_meant():
    assert found(net().eval(), steps=6)["trained-in-eval-mode"].severity == "warning"


def test_frozen_batch_norm_in_a_net_that_trains_is_none():
    model = net(dropout=0.1)
    model[1].eval()
    assert "trained-in-eval-mode" not in found(model, steps=6)
    assert "trained-in-eval-mode" not in found(net(norm=False).eval(), steps=6)
