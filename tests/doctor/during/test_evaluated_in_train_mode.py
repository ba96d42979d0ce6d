"""Evaluation without eval(): batch norm or dropout in train mode, no gradient, twice in a row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, fit, net
from visus.doctor.watcher import Watcher


def evaluated(model: nn.Module, *, call_eval: bool, passes: int = 3) -> dict:
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Watcher(model, optimizer, loss) as watcher:
        fit(model, optimizer, loss, steps=4)
        if call_eval:
            model.eval()
        with torch.no_grad():
            for _ in range(passes):
                model(data()[0][:32])
    return by_check(watcher)


@pytest.mark.parametrize("model, layer", [(net(), "BatchNorm2d"), (net(norm=False, dropout=0.3), "Dropout")])
def test_it_is_told_with_the_layers_that_make_the_difference(model, layer):
    finding = evaluated(model, call_eval=False)["evaluated-in-train-mode"]
    assert finding.severity == "error" and finding.step == 4 and f"1 {layer}" in finding.evidence


def test_eval_one_trial_pass_and_nets_without_such_layers_are_none():
    assert "evaluated-in-train-mode" not in evaluated(net(), call_eval=True)
    assert "evaluated-in-train-mode" not in evaluated(net(), call_eval=False, passes=1)
    assert "evaluated-in-train-mode" not in evaluated(net(norm=False), call_eval=False)
    assert "evaluated-in-train-mode" not in evaluated(net(norm=False, dropout=1e-9)[:1].append(nn.Flatten()).append(
        nn.Linear(288, 3)), call_eval=False)
