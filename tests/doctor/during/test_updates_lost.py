"""Weights in bf16 with a small rate do not move; with fp32 weights under autocast they do."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, look, net, told
from visus.doctor.during.updates_lost import UpdatesLost
from visus.doctor.watcher import Watcher


def trained(*, weights: torch.dtype, lr: float) -> dict:
    model, loss = net(norm=False).to(weights), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    images, labels = data()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for _ in range(8):
            chosen = torch.randint(0, 256, (16,))
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
                value = loss(model(images[chosen].to(weights)), labels[chosen])
            value.backward()
            optimizer.step()
    assert watcher.failed is None
    return by_check(watcher)


def test_bf16_weights_with_a_small_rate_are_told_with_the_share_that_is_lost():
    finding = trained(weights=torch.bfloat16, lr=1e-5)["updates-lost"]
    assert finding.severity == "error" and float(finding.evidence.split(" %")[0]) > 90


def test_a_rate_that_bf16_resolves_and_fp32_weights_under_autocast_are_none():
    assert "updates-lost" not in trained(weights=torch.bfloat16, lr=1e-2)
    assert "updates-lost" not in trained(weights=torch.float32, lr=1e-5)


def test_the_bound_is_nine_tenths_in_most_tensors():
    def looks(share: float):
        return [look(step, unchanged={"a": share, "b": share, "c": 0.1}, lr=0.1) for step in range(1, 6)]

    rule = UpdatesLost()
    assert told(rule, looks(0.89)) == []
    assert told(UpdatesLost(), looks(0.91))[0].layer in ("a", "b")
