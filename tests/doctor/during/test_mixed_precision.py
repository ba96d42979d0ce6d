"""Loss scales that find their place, and gradients that do not fit."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, look, told
from visus.doctor.during.mixed_precision import MixedPrecision
from visus.doctor.watcher import Watcher


def looks(skipped: set[int], scale: float = 1024.0, steps: int = 500):
    return [look(step, scale=scale, skipped=int(step in skipped)) for step in range(1, steps + 1)]


def test_skips_at_the_start_and_one_now_and_then_are_none():
    assert told(MixedPrecision(), looks(set(range(1, 12)))) == []
    assert told(MixedPrecision(), looks({250, 400})) == []


def test_one_in_a_hundred_three_in_a_row_or_a_scale_below_one_is_told_once():
    assert "of 100 steps" in told(MixedPrecision(), looks(set(range(202, 300, 20))))[0].evidence
    assert "3 skips in a row" in told(MixedPrecision(), looks({300, 301, 302}))[0].evidence
    assert len(told(MixedPrecision(), looks(set(range(202, 500, 20)), scale=0.5))) == 1


def test_outputs_near_the_end_of_half_precision_are_told_with_their_layer():
    torch.manual_seed(0)
    model, loss = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), nn.CrossEntropyLoss()
    with torch.no_grad():
        model[0].bias.fill_(20_000.0)
        model[2].weight.mul_(1e-4)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    with Watcher(model, optimizer, loss) as watcher:
        with torch.autocast("cpu", torch.float16):
            value = loss(model(torch.randn(4, 8)), torch.tensor([0, 1, 2, 0]))
        value.backward()
        optimizer.step()
    finding = by_check(watcher)["mixed-precision"]
    assert finding.severity == "warning" and finding.layer == "0"


def test_a_skipped_step_is_seen_and_its_gradients_are_not_those_of_the_next():
    model, loss = nn.Linear(4, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    seen = []
    images, labels = data()
    with Watcher(model, optimizer, loss, scaler=scaler) as watcher:
        watcher._rules.append(("seen", lambda one: seen.append(one) or ()))
        for step in range(6):
            optimizer.zero_grad()
            inputs = images[:8, 0, 0, :4] * (torch.inf if step == 3 else 1.0)
            scaler.scale(loss(model(inputs), labels[:8])).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [one.facts["skipped"] for one in seen] == [0, 0, 0, 1, 0]
    assert not [f for f in watcher.findings if f.check in ("gradients-not-zeroed", "mixed-precision")]


def test_weights_in_half_precision_that_overflow_are_told_as_such():
    half = [look(1, weight_type=torch.float16, loss=1.0), look(2, loss=float("nan"))]
    assert told(MixedPrecision(), half)[0].severity == "error"
    for kind in (torch.float32, torch.bfloat16):
        assert told(MixedPrecision(), [look(1, weight_type=kind, loss=1.0), look(2, loss=float("nan"))]) == []
