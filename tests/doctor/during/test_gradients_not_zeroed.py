"""A forgotten zero_grad, told from accumulation and from a second net that trains through this one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, found, net
from visus.doctor.watcher import Watcher


def test_a_loop_without_zero_grad_is_told_at_its_third_step():
    finding = found(net(), steps=6, lr=1e-3, zero_grad=False)["gradients-not-zeroed"]
    assert finding.severity == "error" and finding.step == 3 and "2 steps running" in finding.evidence


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("zero_first", [True, False])
@pytest.mark.parametrize("passes", [1, 4])
def test_accumulation_with_zero_grad_anywhere_in_the_step_is_none(to_none, zero_first, passes):
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images, labels = data()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for _ in range(6):
            if zero_first:
                optimizer.zero_grad(set_to_none=to_none)
            for part in range(passes):
                (loss(model(images[part:part + 16]), labels[part:part + 16]) / passes).backward()
            optimizer.step()
            if not zero_first:
                optimizer.zero_grad(set_to_none=to_none)
    assert watcher.looks[2].samples == 16 * passes
    assert "gradients-not-zeroed" not in by_check(watcher)


def test_accumulation_that_forgets_zero_grad_is_told():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    images, labels = data()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for _ in range(6):
            for part in range(3):
                (loss(model(images[part:part + 16]), labels[part:part + 16]) / 3).backward()
            optimizer.step()
    assert "first of 3 backward passes" in by_check(watcher)["gradients-not-zeroed"].evidence


def test_weights_that_the_optimizer_does_not_hold_are_not_its_to_clear():
    model = net()
    optimizer = torch.optim.SGD(model[-1].parameters(), 0.05)
    assert "gradients-not-zeroed" not in found(model, optimizer=optimizer, steps=8)


def test_a_discriminator_that_the_generator_trains_through_is_none():
    """The generator's pass leaves gradients in the discriminator; they are cleared before its own pass."""
    torch.manual_seed(0)
    generator, judge = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    g, d = torch.optim.Adam(generator.parameters(), 1e-3), torch.optim.Adam(judge.parameters(), 1e-3)
    loss = nn.BCEWithLogitsLoss()
    with Watcher(judge, d, loss, share=1.0) as watcher:
        for _ in range(12):
            noise, real = torch.randn(16, 4), torch.randn(16, 8)
            d.zero_grad()
            made = generator(noise).detach()
            (loss(judge(real), torch.ones(16, 1)) + loss(judge(made), torch.zeros(16, 1))).backward()
            d.step()
            g.zero_grad()
            loss(judge(generator(noise)), torch.ones(16, 1)).backward()
            g.step()
    assert watcher.failed is None and "gradients-not-zeroed" not in by_check(watcher)
