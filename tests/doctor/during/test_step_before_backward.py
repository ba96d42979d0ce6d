"""The order of step and backward; what closures and frozen nets do is none."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, found, net
from visus.doctor.watcher import Watcher


def loop(order: str, steps: int = 8) -> dict:
    """order: f forward, b backward, s step, z zero_grad."""
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images, labels = data()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for _ in range(steps):
            for letter in order:
                if letter == "f":
                    chosen = torch.randint(0, 256, (16,))
                    value = loss(model(images[chosen]), labels[chosen])
                elif letter == "b":
                    value.backward()
                elif letter == "s":
                    optimizer.step()
                else:
                    optimizer.zero_grad()
    assert watcher.failed is None
    return by_check(watcher)


def test_a_step_before_the_backward_pass_is_told():
    finding = loop("zfsb")["step-before-backward"]
    assert finding.severity == "error" and "before the backward pass" in finding.title and finding.step <= 4


def test_a_loop_that_never_goes_backward_is_told():
    finding = loop("zfs")["step-before-backward"]
    assert "without a backward pass" in finding.title and finding.step == 3


def test_the_usual_orders_are_none():
    for order in ("zfbs", "fzbs", "fbsz", "zfbfbs"):
        assert "step-before-backward" not in loop(order), order


def test_a_closure_is_none():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    images, labels = data()

    def closure():
        optimizer.zero_grad()
        value = loss(model(images[:64]), labels[:64])
        value.backward()
        return value

    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for _ in range(6):
            optimizer.step(closure)
    assert watcher.failed is None and "step-before-backward" not in by_check(watcher)
    assert "step-before-backward" not in found(net(), steps=5)
