"""Batch gradient descent: accumulation over all batches makes one update an epoch, by the gradient over all data."""

from __future__ import annotations

import torch
from torch import nn

from tests.train import test_trainer


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)).double()


def test_accumulated_over_an_epoch_each_update_is_a_step_down_the_gradient_of_the_whole_data(tmp_path, monkeypatch):
    monkeypatch.setattr(test_trainer, "build_optimizer", lambda *_, **__: torch.optim.SGD(model.parameters(), lr=0.2))
    monkeypatch.setattr(test_trainer, "network", lambda: model)
    model, source = plain(), test_trainer.Source(40, 16)
    source.images = source.images.double()
    made = test_trainer.setup(tmp_path, source=source, ema=False, epochs=3, accumulate=1000)
    made.trainer.schedule.factor = lambda step: 1.0
    assert made.trainer.run().step == 3
    by_hand = [p.detach().clone().requires_grad_() for p in plain().parameters()]
    for _ in range(3):
        weight, bias, matrix, shift = by_hand
        logits = torch.tanh(nn.functional.conv2d(source.images, weight, bias)).flatten(1) @ matrix.T + shift
        gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, source.targets), by_hand)
        by_hand = [(p - 0.2 * g).detach().requires_grad_() for p, g in zip(by_hand, gradients, strict=True)]
    for found, expected in zip(model.parameters(), by_hand, strict=True):
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=0, atol=1e-12)
